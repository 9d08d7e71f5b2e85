"""An in-flight region that a front end hands over from an earlier back end: is it one, and was it used."""

import os

from ringblk.engine.devices.device import DeviceError
from ringblk.shm.queues.inflight_region import queue_region_bytes

RECORD_ALIGN_BYTES = 8
"""Of an in-flight region: its counters are of this size."""
INFLIGHT_VERSION_OFFSET = 8
"""Of a queue's in-flight header; 0 there: never served (vhost-user, "Inflight I/O tracking")."""


def admit_inflight(fd: int, mmap_size_bytes: int, mmap_offset_bytes: int, needed_bytes: int) -> None:
    """Check an in-flight region that was handed over; its fd is closed if it is refused, by `DeviceError`."""
    if mmap_offset_bytes % RECORD_ALIGN_BYTES:
        os.close(fd)
        raise DeviceError(f"the in-flight region begins at {mmap_offset_bytes}, which is no multiple of 8")
    if mmap_size_bytes < needed_bytes:
        os.close(fd)
        raise DeviceError(f"an in-flight region of {mmap_size_bytes} bytes is too small")
    if os.fstat(fd).st_size < mmap_offset_bytes + mmap_size_bytes:
        os.close(fd)
        raise DeviceError("the in-flight region is shorter than it is said to be")


def was_inflight_used(fd: int, mmap_offset_bytes: int, queue_size: int, num_queues: int) -> bool:
    """Whether any queue of an admitted in-flight region was served before, here or elsewhere.

    Its fd is closed if it cannot be read; raises `DeviceError`.
    """
    versions = (
        os.pread(fd, 2, mmap_offset_bytes + index * queue_region_bytes(queue_size) + INFLIGHT_VERSION_OFFSET)
        for index in range(num_queues)
    )
    try:
        return any(any(version) for version in versions)
    except OSError as error:
        os.close(fd)
        raise DeviceError(f"the in-flight region cannot be read: {error.strerror or error}") from error
