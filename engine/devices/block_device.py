"""The block device as its driver sees it: features, config space and cache mode (virtio 1.2, 5.2).

It knows nothing of rings, processes or files.
"""

from typing import Annotated, Literal

import msgspec

from ringblk.engine.devices.device import ConfigRefused
from ringblk.engine.devices.features import F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1
from ringblk.engine.options.drive_config import CacheMode
from ringblk.shm.layout.sizes import power_of_two_fault, queue_size_fault
from ringblk.shm.state.segment import MAX_QUEUES, StateSegment
from ringblk.workers.backends.topology import MAX_LOGICAL_BLOCK_BYTES, MAX_PHYSICAL_BLOCK_BYTES, SECTOR_BYTES
from ringblk.workers.block.config_space import WRITEBACK_OFFSET_BYTES, BlockConfigSpace
from ringblk.workers.block.protocol import (
    F_BLK_SIZE,
    F_CONFIG_WCE,
    F_DISCARD,
    F_FLUSH,
    F_MQ,
    F_RO,
    F_SEG_MAX,
    F_TOPOLOGY,
    F_WRITE_ZEROES,
    MAX_DISCARD_SECTORS,
    MAX_SEGMENTS,
    MAX_WRITE_ZEROES_SECTORS,
)
from ringblk.workers.block.state import publish_block_state

_MAX_MINIMUM_IO_BLOCKS = 0xFFFF
_MAX_OPTIMAL_IO_BLOCKS = 0xFFFFFFFF


class BlockDeviceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a block device is made of. Raises `ValueError` where the values make no device.

    `cache="writeback"` offers FLUSH and lets the driver choose write-through; `"unsafe"` offers neither.
    A physical block is `logical_block_size_bytes << physical_block_exponent`; the other sizes are as in
    `BlockTopology` (None: a physical block). A read-only device offers neither discard nor write zeroes.
    """

    capacity_bytes: Annotated[int, msgspec.Meta(ge=0)]
    read_only: bool = False
    cache: Literal["writeback", "unsafe"] = "writeback"
    num_queues: Annotated[int, msgspec.Meta(ge=1, le=MAX_QUEUES)] = 1
    queue_size: int = 128
    logical_block_size_bytes: int = SECTOR_BYTES
    physical_block_exponent: Annotated[int, msgspec.Meta(ge=0)] = 0
    alignment_offset_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    minimum_io_bytes: Annotated[int, msgspec.Meta(ge=0)] | None = None
    optimal_io_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    discard_granularity_bytes: Annotated[int, msgspec.Meta(ge=0)] | None = None

    def __post_init__(self) -> None:
        if fault := queue_size_fault(self.queue_size):
            raise ValueError(f"queue_size {fault}")
        block_bytes = self.logical_block_size_bytes
        if fault := power_of_two_fault(block_bytes, SECTOR_BYTES, MAX_LOGICAL_BLOCK_BYTES):
            raise ValueError(f"logical_block_size_bytes {fault}")
        if block_bytes << self.physical_block_exponent > MAX_PHYSICAL_BLOCK_BYTES:
            raise ValueError(f"a physical block is larger than {MAX_PHYSICAL_BLOCK_BYTES} bytes")

    @property
    def topology(self) -> tuple[int, int, int, int]:
        """`physical_block_exp`, `alignment_offset`, `min_io_size` and `opt_io_size` of the config space.

        In logical blocks but for the first. What is no multiple of them, or has no room there, is left out.
        """
        block_bytes = self.logical_block_size_bytes
        physical_blocks = 1 << self.physical_block_exponent
        alignment_blocks, rest = divmod(self.alignment_offset_bytes, block_bytes)
        if rest or alignment_blocks >= physical_blocks:
            alignment_blocks = 0
        minimum_blocks, rest = divmod(self.minimum_io_bytes or 0, block_bytes)
        if rest or not physical_blocks <= minimum_blocks <= _MAX_MINIMUM_IO_BLOCKS:
            minimum_blocks = physical_blocks
        optimal_blocks, rest = divmod(self.optimal_io_bytes, block_bytes)
        if rest or optimal_blocks > _MAX_OPTIMAL_IO_BLOCKS:
            optimal_blocks = 0
        return self.physical_block_exponent, alignment_blocks, minimum_blocks, optimal_blocks

    @property
    def discard_sectors(self) -> int:
        """`discard_sector_alignment` of the config space: DISCARD's granularity, in whole logical blocks."""
        block_bytes = self.logical_block_size_bytes
        granularity_bytes = self.discard_granularity_bytes or block_bytes << self.physical_block_exponent
        granularity_blocks = -(-granularity_bytes // block_bytes)
        return min(granularity_blocks * (block_bytes // SECTOR_BYTES), MAX_DISCARD_SECTORS)


class _Choices(msgspec.Struct, frozen=True, array_like=True):
    """What a `BlockDevice` has of its driver."""

    features: int
    writeback: bool
    is_settled: bool
    last_writeback: bool | None


class BlockDevice:
    """A block device's face to its driver."""

    window_bytes = 0

    def __init__(self, config: BlockDeviceConfig) -> None:
        self._config = config
        self._capacity_bytes = config.capacity_bytes
        self._features = 0
        self._cache: CacheMode = config.cache
        self._writeback = config.cache == "writeback"
        self._is_settled = False  # whether _writeback is what a driver has chosen or begun with
        self._last_writeback: bool | None = None  # what the driver before had, which may still be the same

    def set_cache(self, cache: CacheMode) -> None:
        """Another cache mode from now on, with the features that the driver was offered at the start.

        `"writethrough"` makes every write stable, whatever the driver chose; so does `"writeback"` for a
        driver that has no FLUSH. `"unsafe"` makes none stable.
        """
        self._cache = cache

    @property
    def cache(self) -> CacheMode:
        """The cache mode now."""
        return self._cache

    @property
    def skips_flush(self) -> bool:
        """Whether a FLUSH is answered without being carried out."""
        return self._cache == "unsafe"

    @property
    def num_queues(self) -> int:
        """How many virtqueues there are."""
        return self._config.num_queues

    @property
    def read_only(self) -> bool:
        """Whether the driver may only read."""
        return self._config.read_only

    @property
    def num_sectors(self) -> int:
        """The capacity in sectors of 512 bytes, in whole logical blocks."""
        block_bytes = self._config.logical_block_size_bytes
        return self._capacity_bytes // block_bytes * (block_bytes // SECTOR_BYTES)

    @property
    def capacity_bytes(self) -> int:
        """The capacity, in whole logical blocks."""
        return self.num_sectors * SECTOR_BYTES

    @property
    def bytes_out_of_reach(self) -> int:
        """What the storage has behind the last whole logical block, which the guest does not see."""
        return self._capacity_bytes - self.capacity_bytes

    @property
    def logical_block_size_bytes(self) -> int:
        """The unit that the capacity is whole multiples of."""
        return self._config.logical_block_size_bytes

    def set_capacity(self, capacity_bytes: int) -> None:
        """Another size from now on; the driver learns of it by a config change, which the caller sends."""
        if capacity_bytes < 0:
            raise ValueError(f"a capacity of {capacity_bytes} bytes")
        self._capacity_bytes = capacity_bytes

    @property
    def device_features(self) -> int:
        """The features on offer."""
        features = F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX | F_MQ | F_SEG_MAX | F_BLK_SIZE | F_TOPOLOGY
        if self._config.read_only:
            features |= F_RO
        else:
            features |= F_DISCARD | F_WRITE_ZEROES
        if self._config.cache == "writeback":
            features |= F_FLUSH | F_CONFIG_WCE
        return features

    @property
    def features(self) -> int:
        """The features that the driver has accepted; 0 before it has, and after a reset."""
        return self._features

    def set_features(self, features: int) -> None:
        """The driver accepts features; 0 is a reset and puts write-back back to what it was at first."""
        self._features = features
        if features == 0:
            self.end_rings()
            self._writeback = self._first_writeback
        elif features & F_CONFIG_WCE and not features & F_FLUSH:
            self._writeback = False

    @property
    def _first_writeback(self) -> bool:
        """What a driver begins with that has accepted these features."""
        if self._features & F_CONFIG_WCE and not self._features & F_FLUSH:
            return False  # virtio 1.2, 5.2.5.2
        return self._config.cache == "writeback"

    @property
    def driver_writeback(self) -> bool | None:
        """What the driver has, or had before it went away, in `writeback`; None where none has been there."""
        return self._writeback if self._is_settled else self._last_writeback

    def remember_writeback(self, writeback: bool | None) -> None:
        """What a driver of an earlier engine had, should it be the one that comes now."""
        self._last_writeback = writeback

    def begin_ring(self, *, is_in_use: bool) -> bool:
        """A ring starts. `is_in_use`: its driver was there before, maybe at another engine, and goes on.

        The front end does not repeat what such a driver wrote to the config space, so it has what it had;
        where nobody knows, every write is made stable. False then. Another driver begins anew.
        """
        if self._is_settled:
            return True
        self._is_settled = True
        if not is_in_use:
            self._writeback = self._first_writeback
            return True
        is_known = self._last_writeback is not None or not self._features & F_CONFIG_WCE
        if self._features & F_CONFIG_WCE:
            self._writeback = bool(self._last_writeback)
        return is_known

    def end_rings(self) -> None:
        """No ring runs any more: the next that starts may be of the same driver or of another."""
        if self._is_settled:
            self._last_writeback = self._writeback
            self._is_settled = False

    @property
    def write_through(self) -> bool:
        """Whether a write must be on disk before it completes (virtio 1.2, 5.2.6.2, on stable writes).

        It must when the driver has turned write-back off, and when it could have accepted FLUSH but took
        neither that nor CONFIG_WCE, and so has no way to ask for it later.
        """
        if self._cache != "writeback":
            return self._cache == "writethrough"
        if self._features & F_CONFIG_WCE:
            return not self._writeback
        return not self._features & F_FLUSH

    @property
    def choices(self) -> bytes:
        """What the driver has chosen so far, for a control plane that goes on with it."""
        chosen = _Choices(self._features, self._writeback, self._is_settled, self._last_writeback)
        return msgspec.msgpack.encode(chosen)

    def resume(self, choices: bytes) -> None:
        """Go on with a driver that has chosen this (`choices`) at a control plane before."""
        chosen = msgspec.msgpack.decode(choices, type=_Choices)
        self._features = chosen.features
        self._writeback = chosen.writeback
        self._is_settled = chosen.is_settled
        self._last_writeback = chosen.last_writeback

    def publish(self, state: StateSegment) -> None:
        """Have requests be checked against the device as it is now."""
        publish_block_state(
            state,
            capacity_sectors=self.num_sectors,
            is_read_only=self.read_only,
            durable_writes=self.write_through,
            is_flush_offered=True,  # whoever asks for one all the same gets it, as with QEMU
            is_discard_offered=bool(self.device_features & F_DISCARD),
            skips_flush=self.skips_flush,
        )

    def read_config(self, offset_bytes: int, size_bytes: int) -> bytes:
        """That part of the config space; zeroes past its end."""
        return self._config_space()[offset_bytes : offset_bytes + size_bytes].ljust(size_bytes, b"\0")

    def write_config(self, offset_bytes: int, data: bytes) -> None:
        """Write to the config space: only `writeback`, with 0 or 1, and only with CONFIG_WCE."""
        if (offset_bytes, len(data)) != (WRITEBACK_OFFSET_BYTES, 1):
            raise ConfigRefused(f"{len(data)} bytes of config space at {offset_bytes} are read-only")
        # A front end passes the driver's features on only when the driver is done, after such a write.
        if not (self._features or self.device_features) & F_CONFIG_WCE:
            raise ConfigRefused("writeback cannot be written without CONFIG_WCE")
        if data[0] > 1:
            raise ConfigRefused(f"writeback {data[0]}, expected 0 or 1")
        self._writeback = bool(data[0])
        self._is_settled = True

    def _config_space(self) -> bytes:
        config = self._config
        has_discard = not config.read_only
        physical_block_exp, alignment_blocks, minimum_blocks, optimal_blocks = config.topology
        return BlockConfigSpace(
            capacity=self.num_sectors,
            seg_max=max(config.queue_size - 2, 1),  # all but header and status
            blk_size=config.logical_block_size_bytes,
            physical_block_exp=physical_block_exp,
            alignment_offset=alignment_blocks,
            min_io_size=minimum_blocks,
            opt_io_size=optimal_blocks,
            writeback=self._writeback,
            num_queues=config.num_queues,
            max_discard_sectors=has_discard * MAX_DISCARD_SECTORS,
            max_discard_seg=has_discard * MAX_SEGMENTS,
            discard_sector_alignment=has_discard * config.discard_sectors,
            max_write_zeroes_sectors=has_discard * MAX_WRITE_ZEROES_SECTORS,
            max_write_zeroes_seg=has_discard * MAX_SEGMENTS,
            write_zeroes_may_unmap=has_discard,
        ).encode()
