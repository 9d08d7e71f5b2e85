"""A shared folder as its driver sees it (virtio 1.2, 5.11)."""

import struct

import msgspec

from ringblk.engine.devices.device import ConfigRefused
from ringblk.engine.devices.features import F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1
from ringblk.engine.options.drive_config import MAX_TAG_BYTES, CacheMode
from ringblk.shm.state.segment import StateSegment

_CONFIG_SPACE = struct.Struct(f"<{MAX_TAG_BYTES}sI")  # tag, num_request_queues (5.11.4)


class FsDevice:
    """Its tag and its queues: the first is for what must not wait (5.11.2). All else is said in FUSE."""

    logical_block_size_bytes = 1
    capacity_bytes = 0
    cache: CacheMode = "writeback"
    driver_writeback: bool | None = None
    device_features = F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX

    def __init__(self, tag: str, request_queue_count: int, window_bytes: int, *, read_only: bool) -> None:
        self.num_queues = request_queue_count + 1
        self.read_only = read_only
        self.window_bytes = window_bytes
        self.features = 0
        self._config_space = _CONFIG_SPACE.pack(tag.encode(), request_queue_count)

    def set_features(self, features: int) -> None:
        """The driver accepts features."""
        self.features = features

    def read_config(self, offset_bytes: int, size_bytes: int) -> bytes:
        """That part of the config space; zeroes past its end."""
        return self._config_space[offset_bytes:][:size_bytes].ljust(size_bytes, b"\0")

    def write_config(self, offset_bytes: int, data: bytes) -> None:
        """Nothing of it can be written."""
        raise ConfigRefused(f"{len(data)} bytes of config space at {offset_bytes} are read-only")

    def begin_ring(self, *, is_in_use: bool) -> bool:
        """What a driver has chosen is in the share's memory."""
        return True

    def end_rings(self) -> None:
        """Nothing of the driver is kept here."""

    def set_capacity(self, capacity_bytes: int) -> None:
        """A folder has none."""

    def set_cache(self, cache: CacheMode) -> None:
        """Writes are as durable as the host's file system makes them."""

    def remember_writeback(self, writeback: bool | None) -> None:
        """As `set_cache`."""

    @property
    def choices(self) -> bytes:
        """What the driver has chosen so far."""
        return msgspec.msgpack.encode(self.features)

    def resume(self, choices: bytes) -> None:
        """Go on with a driver that has chosen this."""
        self.features = msgspec.msgpack.decode(choices, type=int)

    def publish(self, state: StateSegment) -> None:
        """Requests are checked against what FUSE has agreed to."""
