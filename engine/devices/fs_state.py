"""What a guest knows of a shared folder, as a session moves it (`workers/fs/folder_state.py`)."""

from collections.abc import Callable

from ringblk.engine.devices.device import DeviceError
from ringblk.workers.fs.folder_state import FolderState
from ringblk.workers.fs.moved_state import StateRefused


class FsState:
    """`MovedState` of a share."""

    def __init__(self, state: FolderState) -> None:
        self._state = state

    def save(self) -> bytes:
        """All that the guest knows."""
        try:
            return self._state.save()
        except (StateRefused, OSError) as error:
            raise DeviceError(str(error)) from error

    def load(self, data: bytes) -> Callable[[], None]:
        """What it knew at another engine."""
        try:
            return self._state.load(data)
        except (StateRefused, OSError) as error:
            raise DeviceError(str(error)) from error
