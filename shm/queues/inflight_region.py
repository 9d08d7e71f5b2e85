"""The region of in-flight records, which the front end keeps (vhost-user, "Inflight I/O tracking")."""

from ringblk.shm.platform.shared_memory import make_unnamed
from ringblk.shm.queues.split.inflight import record_bytes

ALIGN_BYTES = 64


def queue_region_bytes(queue_size: int) -> int:
    """The stride of one queue's part of an in-flight region."""
    return -(-record_bytes(queue_size) // ALIGN_BYTES) * ALIGN_BYTES


def make_inflight_region(num_queues: int, queue_size: int) -> tuple[int, int]:
    """An empty region for so many queues of that size: an fd, the caller's to close, and its size."""
    size_bytes = queue_region_bytes(queue_size) * num_queues
    return make_unnamed("ringblk-inflight", size_bytes, is_sealed=True), size_bytes
