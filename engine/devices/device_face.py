"""A device as its driver sees it, whatever kind it is."""

from typing import Protocol

from ringblk.engine.options.drive_config import CacheMode
from ringblk.shm.state.segment import StateSegment


class DeviceFace(Protocol):
    """Features, config space, and what else a driver can be told or can choose.

    It knows nothing of rings, processes or files. Requests are checked against what it has published in the
    drive's state segment.
    """

    @property
    def num_queues(self) -> int:
        """How many virtqueues there are."""

    @property
    def window_bytes(self) -> int:
        """How large its shared memory is, where files are mapped into the guest; 0: it has none."""

    @property
    def device_features(self) -> int:
        """The features on offer."""

    @property
    def features(self) -> int:
        """The features that the driver has accepted; 0 before it has, and after a reset."""

    def set_features(self, features: int) -> None:
        """The driver accepts features; 0 is a reset."""

    def read_config(self, offset_bytes: int, size_bytes: int) -> bytes:
        """That part of the config space; zeroes past its end."""

    def write_config(self, offset_bytes: int, data: bytes) -> None:
        """Write to the config space. Raises `ConfigRefused`."""

    def begin_ring(self, *, is_in_use: bool) -> bool:
        """A ring starts. `is_in_use`: its driver was there before, maybe at another engine, and goes on.

        False where something that such a driver had chosen is not known any more.
        """

    def end_rings(self) -> None:
        """No ring runs any more: the next that starts may be of the same driver or of another."""

    @property
    def read_only(self) -> bool:
        """Whether the driver may only read."""

    @property
    def capacity_bytes(self) -> int:
        """How large the driver sees it, in whole logical blocks; 0 where it has no size."""

    @property
    def logical_block_size_bytes(self) -> int:
        """The unit that the capacity is whole multiples of."""

    def set_capacity(self, capacity_bytes: int) -> None:
        """Another size from now on; the driver learns of it by a config change, which the caller sends."""

    @property
    def cache(self) -> CacheMode:
        """The cache mode now."""

    def set_cache(self, cache: CacheMode) -> None:
        """Another cache mode from now on, with the features that the driver was offered at the start."""

    @property
    def driver_writeback(self) -> bool | None:
        """Whether the driver has, or had before it went away, its writes cached; None: there was none."""

    def remember_writeback(self, writeback: bool | None) -> None:
        """What a driver of an earlier engine had, should it be the one that comes now."""

    @property
    def choices(self) -> bytes:
        """What the driver has chosen so far, for a control plane that goes on with it."""

    def resume(self, choices: bytes) -> None:
        """Go on with a driver that has chosen this (`choices`) at a control plane before."""

    def publish(self, state: StateSegment) -> None:
        """Have requests be checked against the device as it is now."""
