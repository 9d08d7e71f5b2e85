"""What was changed about an engine's list of drives, for the next engine with the same control socket.

Each drive that came by the control API has a record of its own in shared memory, and so has each of the
configuration file that was removed by it. They are left whatever way the engine ends. The next one makes its
own of them, and only then removes the former ones. What was changed about a drive itself is in the drive's
record (`record.py`).
"""

import logging
import os
import time
from collections.abc import Collection

import msgspec

from ringblk.engine.base.digest import short_digest
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.engine.options.drive_names import is_drive_name
from ringblk.shm.segments.record_file import RecordFile, read_record, remove_empty_records, remove_record
from ringblk.shm.segments.shared_folder import shared_names
from ringblk.shm.segments.two_slots import record_bytes_for

PREFIX = "ringblk-list-"
MAX_LEFT = 4096
"""Records of engines that are gone which a user may have; beyond it the oldest are removed."""

_log = logging.getLogger(__name__)


class ListedDrive(msgspec.Struct, frozen=True, kw_only=True):
    """One change of the list."""

    name: str
    config: DriveConfig | None
    """None: the drive of this name was removed."""
    written_ns: int


class ListRecord:
    """The changes of one engine's list, carried over from the engines before it."""

    def __init__(self, control_path: str, *, forgets: bool) -> None:
        """With `forgets` nothing is carried over, and what was left is removed when `begin` is called."""
        path = os.path.join(os.path.realpath(os.path.dirname(control_path)), os.path.basename(control_path))
        self._prefix = f"{PREFIX}{short_digest(os.fsencode(path))}-"
        self._files: dict[str, RecordFile] = {}
        self._former = shared_names(self._prefix)
        self.carried: dict[str, DriveConfig | None] = {} if forgets else self._read_former()

    def _read_former(self) -> dict[str, DriveConfig | None]:
        """The newest that was left of each drive."""
        found: dict[str, ListedDrive] = {}
        for name in self._former:
            listed = _read(name)
            if listed is None:
                continue
            is_newest = listed.name not in found or found[listed.name].written_ns < listed.written_ns
            if is_newest and is_drive_name(listed.name):
                found[listed.name] = listed
        return {name: listed.config for name, listed in found.items()}

    def take(self, in_file: Collection[str]) -> dict[str, DriveConfig | None]:
        """What was carried over; None: the drive, one of the configuration file's, was removed."""
        carried = self.carried.items()
        self.carried = {name: config for name, config in carried if config is not None or name in in_file}
        return self.carried

    def begin(self) -> None:
        """The engines before this one have ended: what they have left is this one's now. Raises `OSError`."""
        for name, config in self.carried.items():
            self.note(name, config)
        for name in self._former:
            remove_record(name)
        self._former = []
        _clear()

    def note(self, name: str, config: DriveConfig | None) -> None:
        """The drive of this name is begun with these settings, or is removed (None). Raises `OSError`."""
        listed = ListedDrive(name=name, config=config, written_ns=time.monotonic_ns())
        prefix = f"{self._prefix}{os.getpid()}-{short_digest(name.encode())}-"
        former = self._files.get(name)
        payload = msgspec.json.encode(listed)
        self._files[name] = RecordFile.create(prefix, payload, record_bytes=record_bytes_for(len(payload)))
        if former is not None:
            former.close(keep=False)

    def forget(self, name: str) -> None:
        """The drive of this name is as the configuration file has it, or it has none and there is none."""
        if (file := self._files.pop(name, None)) is not None:
            file.close(keep=False)

    def close(self) -> None:
        """Leave all of it to the next engine."""
        for file in self._files.values():
            file.close(keep=True)
        self._files.clear()


def _read(name: str) -> ListedDrive | None:
    """What a record of this user's says; None: nothing that can be read."""
    record = read_record(name)
    if record is None:
        return None
    try:
        return msgspec.json.decode(record.payload, type=ListedDrive)
    except msgspec.DecodeError:
        return None


def _clear() -> None:
    """Remove empty records, and the oldest where very many were left."""
    remove_empty_records(PREFIX)
    names = shared_names(PREFIX)
    if len(names) <= MAX_LEFT:
        return
    read = [(listed.written_ns, name) for name in names if (listed := _read(name)) is not None]
    for _, name in sorted(read, reverse=True)[MAX_LEFT:]:
        remove_record(name)  # not one whose engine runs
