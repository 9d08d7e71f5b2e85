"""The device as the data path sees it, in the state segment."""

from ringblk.engine.devices.device_face import DeviceFace
from ringblk.shm.state.segment import StateSegment


class PublishedDevice:
    """Call `publish` after each change of the device, before anybody is told that it was made."""

    def __init__(self, device: DeviceFace, state: StateSegment) -> None:
        self._device = device
        self._state = state

    def publish(self) -> None:
        """Have requests checked against the device as it is now."""
        self._device.publish(self._state)
