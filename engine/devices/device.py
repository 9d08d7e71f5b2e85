"""What a vhost-user session asks of a device, whatever kind of device it is.

The session checks what can be checked without memory or disk (sizes, ranges, order); the device does the
rest and may refuse. Calls come one at a time. A call is cancelled when the front end goes away, and `reset`
follows.
"""

from collections.abc import Callable
from typing import Protocol

from ringblk.engine.devices.vring import Vring
from ringblk.shm.memory.region import MemoryRegion


class DeviceError(Exception):
    """The device cannot do what the front end asks; its text says why.

    The caller answers the front end with a failure where that waits for an answer, and otherwise ends the
    session: the front end would go on as if it had been done.
    """

    is_told = False
    """The log has said so already, and nothing has changed since."""


class ConfigRefused(Exception):  # noqa: N818
    """A config space access that the driver may not make. Log it, answer with a failure, and go on."""

    is_told = False


class MovedState(Protocol):
    """What a device knows of its guest, and its memory has not: it moves with the guest.

    Both are called in a thread, while no ring runs. They raise `DeviceError`.
    """

    def save(self) -> bytes:
        """All of it."""

    def load(self, data: bytes) -> Callable[[], None]:
        """Look at what the device that the guest leaves has given; this may wait for a disk, and be given up.

        What is returned puts it in the place of all that was known. It waits for nothing, and no ring runs
        before it has ended.
        """


class Device(Protocol):
    """A virtio device as the session sees it."""

    @property
    def num_queues(self) -> int:
        """How many virtqueues there are."""

    @property
    def max_mem_slots(self) -> int:
        """How many memory regions may be added one by one (GET_MAX_MEM_SLOTS)."""

    @property
    def device_features(self) -> int:
        """The virtio feature bits on offer, without bit 30, which is the session's."""

    def set_features(self, features: int) -> None:
        """The driver has accepted these of `device_features` (0 after a reset)."""

    def read_config(self, offset_bytes: int, size_bytes: int) -> bytes:
        """Exactly `size_bytes` of the config space, zeroes past its end."""

    def write_config(self, offset_bytes: int, data: bytes) -> None:
        """Write to the config space; `ConfigRefused` where the driver may not."""

    @property
    def window_bytes(self) -> int:
        """How large the device's shared memory is, which the front end shows the guest; 0: it has none."""

    @property
    def moved_state(self) -> MovedState | None:
        """What it knows of its guest; None: nothing that does not come again with its queues."""

    async def set_backend_channel(self, fd: int, *, is_legacy: bool) -> None:
        """Have files mapped there, on this channel. `fd` is the device's, also when it raises.

        `is_legacy`: the front end knows FS_MAP and FS_UNMAP, which were there before SHMEM_MAP.
        """

    async def add_region(self, region: MemoryRegion, fd: int) -> None:
        """Map a region in every process. `fd` is the device's from the call on, also when it raises."""

    async def remove_region(self, region: MemoryRegion) -> None:
        """Unmap a region that was added; returns when no request uses it any more."""

    async def replace_regions(self, regions: list[tuple[MemoryRegion, int]]) -> None:
        """Put these regions in place of all others. The fds are the device's, also when it raises."""

    async def start_queue(self, vring: Vring) -> None:
        """Begin to process a ring, which is enabled.

        Its fds stay the session's: they are valid until `update_fds`, `stop_queue` or `reset` returns.
        """

    async def update_fds(self, vring: Vring) -> None:
        """A running ring's kick, call or err fd has been replaced; the old one is closed on return."""

    async def set_enabled(self, queue_index: int, enabled: bool) -> None:
        """Let a running ring rest, or go on."""

    async def set_log(self, fd: int, mmap_size_bytes: int, mmap_offset_bytes: int) -> None:
        """Have a dirty log, in place of an earlier one. `fd` is the device's, also when it raises."""

    async def set_logging(self, enabled: bool) -> None:
        """Mark each guest page that is written in the dirty log, or stop doing so; on return it is so."""

    async def set_queue_log(self, vring: Vring) -> None:
        """The `log_gpa` of a running ring is another."""

    async def stop_queue(self, queue_index: int, *, is_suspended: bool = False) -> int:
        """Stop a running ring, wait for what is in flight, and give back `next_avail`.

        `is_suspended`: what is in flight may be left to whoever is given the in-flight region next.
        """

    async def get_inflight(self, num_queues: int, queue_size: int) -> tuple[int, int, int]:
        """Make an in-flight region: an fd, which the caller closes, its mmap size and its mmap offset."""

    async def set_inflight(
        self, fd: int, mmap_size_bytes: int, mmap_offset_bytes: int, num_queues: int, queue_size: int
    ) -> None:
        """Use an in-flight region from an earlier back end. `fd` is the device's, also when it raises."""

    async def reset(self) -> None:
        """The front end is gone: stop and drain all rings, forget regions, features, in-flight region."""
