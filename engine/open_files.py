"""How many descriptors an engine may have open: as many as it can come to need, or it does not start.

What a front end can make it hold is bounded (rings, regions), so an engine that starts never runs out by
what a front end does. It is looked at again before more workers are started.
"""

import resource

from ringblk.engine.config import ConfigError, EngineConfig
from ringblk.engine.region_table import MAX_MEM_SLOTS

_BASE_COUNT = 80
"""Image, segment, sockets, event loop, front ends that wait, and what backend and control API have open."""
_WORKER_COUNT = 6
"""Eventfd, pidfd, io_uring, both ends of the channel, and a message's copy."""
_QUEUE_COUNT = 6
"""Kick, call and error, and a copy of each on its way to the dispatcher."""
_REGION_COUNT = 2


def reserve_open_files(config: EngineConfig, worker_count: int) -> None:
    """Raise the soft limit on open files to what this engine can need with so many workers.

    Raises `ConfigError` where the hard limit is lower; nothing was changed then.
    """
    wanted = _BASE_COUNT + _WORKER_COUNT * worker_count + _QUEUE_COUNT * config.num_queues
    wanted += _REGION_COUNT * MAX_MEM_SLOTS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise ConfigError(
            f"only {hard} files may be open, {worker_count} workers and {config.num_queues} queues can need"
            f" {wanted}: raise the limit (ulimit -Hn, LimitNOFILE=), or ask for fewer",
            exit_status=1,
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
