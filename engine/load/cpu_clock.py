"""CPU time of processes and of the whole machine."""

import os
import time
from collections.abc import Sequence

import msgspec

from ringblk.shm.platform.kernel_files import cpu_ticks
from ringblk.shm.platform.process_table import cpu_s

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_BUSY_FIELDS = (0, 1, 2, 5, 6, 7)
"""Of `cpu_ticks`: user, nice, system, irq, softirq, steal."""


class CpuTimes(msgspec.Struct, frozen=True):
    """CPU seconds used up to `at_s` of the monotonic clock."""

    at_s: float
    own_s: float
    backend_s: float
    machine_s: float


def cpu_times(backend_pids: Sequence[int] = ()) -> CpuTimes:
    """The times now. A process that has gone, or a system that does not say, counts zero."""
    backend_s = sum(cpu_s(pid) for pid in backend_pids)
    return CpuTimes(time.monotonic(), time.process_time(), backend_s, _machine_s())


def _machine_s() -> float:
    ticks = cpu_ticks()
    return sum(ticks[place] for place in _BUSY_FIELDS) / _TICKS_PER_S if ticks else 0.0
