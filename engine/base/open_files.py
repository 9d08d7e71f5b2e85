"""How many descriptors an engine may have open: as many as it can come to need, or it does not start.

What a front end can make it hold is bounded (rings, regions), so an engine that starts never runs out by
what a front end does. It is looked at again before more workers are started.
"""

import resource

from ringblk.engine.base.program_error import ProgramError

MAX_MEM_SLOTS = 509
"""As many memory regions as others take (rust-vmm); QEMU plugs up to 256 for one virtio-mem device."""
LEAST_MEM_SLOTS = 32
"""Where only few files may be open."""

OPEN_FILES_MEND = "raise the limit (ulimit -Hn, LimitNOFILE=)"

_BASE_COUNT = 80
"""Image, segment, sockets, event loop, front ends that wait, and what backend and control API have open."""
_WORKER_COUNT = 6
"""Eventfd, pidfd, io_uring, both ends of the channel, and a message's copy."""
_QUEUE_COUNT = 6
"""Kick, call and error, and a copy of each on its way to the dispatcher."""
_REGION_COUNT = 3
"""Its own, that of one that has gone while requests still use it, and a copy on its way to a child."""


def reserve_open_files(worker_count: int, num_queues: int) -> None:
    """Raise the soft limit on open files to what an engine with so many workers and queues can need.

    Raises `ProgramError` where the hard limit is too low even for few memory slots; nothing was changed then.
    """
    wanted, most = needed_open_files(worker_count, num_queues)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise ProgramError(
            f"only {hard} files may be open, {worker_count} workers and {num_queues} queues can need"
            f" {wanted}: {OPEN_FILES_MEND}, or ask for fewer",
            exit_status=1,
        )
    soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def needed_open_files(worker_count: int, num_queues: int) -> tuple[int, int]:
    """How many descriptors such an engine can need: with few memory slots, and with as many as there are."""
    wanted = _count_without_regions(worker_count, num_queues) + _REGION_COUNT * LEAST_MEM_SLOTS
    return wanted, wanted + _REGION_COUNT * (MAX_MEM_SLOTS - LEAST_MEM_SLOTS)


def mem_slot_count(worker_count: int, num_queues: int) -> int:
    """How many memory slots an engine with so many workers and queues has the descriptors for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_MEM_SLOTS
    room = (soft - _count_without_regions(worker_count, num_queues)) // _REGION_COUNT
    return max(LEAST_MEM_SLOTS, min(MAX_MEM_SLOTS, room))


def _count_without_regions(worker_count: int, num_queues: int) -> int:
    return _BASE_COUNT + _WORKER_COUNT * worker_count + _QUEUE_COUNT * num_queues
