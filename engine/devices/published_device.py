"""The device as the data path sees it, in the state segment."""

from ringblk.engine.devices.block_device import BlockDevice
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.block.protocol import F_DISCARD


class PublishedDevice:
    """Call `publish` after each change of the device, before anybody is told that it was made."""

    def __init__(self, device: BlockDevice, state: StateSegment) -> None:
        self._device = device
        self._state = state

    def publish(self) -> None:
        """Have requests checked against the device as it is now."""
        self._state.set_device(
            capacity_sectors=self._device.num_sectors,
            is_read_only=self._device.read_only,
            durable_writes=self._device.write_through,
            is_flush_offered=True,  # whoever asks for one all the same gets it, as with QEMU
            is_discard_offered=bool(self._device.device_features & F_DISCARD),
            skips_flush=self._device.skips_flush,
        )
