"""The region of in-flight records, which the front end keeps (vhost-user, "Inflight I/O tracking")."""

import fcntl
import os

from ringblk.shm.queues.split.inflight import record_bytes

ALIGN_BYTES = 64


def queue_region_bytes(queue_size: int) -> int:
    """The stride of one queue's part of an in-flight region."""
    return -(-record_bytes(queue_size) // ALIGN_BYTES) * ALIGN_BYTES


def make_inflight_region(num_queues: int, queue_size: int) -> tuple[int, int]:
    """An empty region for so many queues of that size: an fd, the caller's to close, and its size."""
    size_bytes = queue_region_bytes(queue_size) * num_queues
    fd = os.memfd_create("ringblk-inflight", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size_bytes)
    # Nobody can cut it off under us.
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd, size_bytes
