"""The block device: the first kind."""

import logging

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.devices.block_device import BlockDevice, BlockDeviceConfig
from ringblk.engine.devices.device_kind import DeviceKind
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.topology import MAX_PHYSICAL_BLOCK_BYTES, SECTOR_BYTES
from ringblk.workers.block.drive_requests import BlockRequests
from ringblk.workers.block.parser import OPERATION_NAMES
from ringblk.workers.block.state import read_capacity_sectors

_log = logging.getLogger(__name__)


def make_device(config: DriveConfig, backend: NativeBackend) -> BlockDevice:
    """The device as the driver is to see it. Raises `ProgramError` for values that make none."""
    try:
        device = BlockDevice(device_config(config, backend))
    except ValueError as error:
        raise ProgramError(str(error), ExitStatus.FAILED) from error
    device.set_cache(config.cache)
    if device.bytes_out_of_reach:
        _log.warning(
            "the guest does not see the last %d bytes: no whole logical block of %d",
            device.bytes_out_of_reach,
            device.logical_block_size_bytes,
        )
    return device


def device_config(config: DriveConfig, backend: NativeBackend) -> BlockDeviceConfig:
    """The device as the driver is to see it. Raises `ProgramError` for blocks that don't fit it."""
    topology = backend.topology
    logical_bytes = config.logical_block_size or topology.logical_block_bytes
    preferred_bytes = min(topology.physical_block_bytes, MAX_PHYSICAL_BLOCK_BYTES)
    physical_bytes = config.physical_block_size or max(logical_bytes, preferred_bytes)
    if physical_bytes < logical_bytes:
        raise ProgramError(
            f"--physical-block-size {physical_bytes} is less than a logical block, {logical_bytes} bytes"
        )
    is_striped = topology.minimum_io_bytes > topology.physical_block_bytes
    return BlockDeviceConfig(
        capacity_bytes=backend.size_bytes,
        read_only=config.read_only or backend.read_only,
        cache="unsafe" if config.cache == "unsafe" else "writeback",  # what is offered, for good
        num_queues=config.num_queues,
        queue_size=config.queue_size,
        logical_block_size_bytes=logical_bytes,
        physical_block_exponent=(physical_bytes // logical_bytes).bit_length() - 1,
        alignment_offset_bytes=topology.alignment_offset_bytes,
        minimum_io_bytes=max(physical_bytes, topology.minimum_io_bytes * is_striped),
        optimal_io_bytes=topology.optimal_io_bytes,
        discard_granularity_bytes=topology.discard_granularity_bytes,
    )


KIND = DeviceKind(
    name="block",
    operations=OPERATION_NAMES,
    make_device=make_device,
    request_settings=lambda config: config.drive_id.encode(),
    make_requests=lambda drive_id, backend: BlockRequests(backend, drive_id),
    read_capacity_bytes=lambda state: read_capacity_sectors(state) * SECTOR_BYTES,
)
