"""How many descriptors an engine may have open: as many as it can come to need, or it does not start.

What a front end can make it hold is bounded (rings, regions), so an engine that starts never runs out by
what a front end does.
"""

import resource

from ringblk.engine.config import ConfigError, EngineConfig
from ringblk.engine.region_table import MAX_MEM_SLOTS

_BASE_COUNT = 64
"""Image, segment, sockets, event loop, and what the backend and the control API have open."""
_WORKER_COUNT = 6
"""Eventfd, pidfd, io_uring, both ends of the channel, and a message's copy."""
_QUEUE_COUNT = 6
"""Kick, call and error, and a copy of each on its way to the dispatcher."""
_REGION_COUNT = 2


def reserve_open_files(config: EngineConfig) -> None:
    """Raise the soft limit on open files to what this engine can need. Raises `ConfigError` if it may not."""
    wanted = _BASE_COUNT + _WORKER_COUNT * config.workers + _QUEUE_COUNT * config.num_queues
    wanted += _REGION_COUNT * MAX_MEM_SLOTS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise ConfigError(
            f"only {hard} files may be open, {config.workers} workers and {config.num_queues} queues can need"
            f" {wanted}: raise the limit (ulimit -Hn, LimitNOFILE=), or ask for fewer",
            exit_status=1,
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
