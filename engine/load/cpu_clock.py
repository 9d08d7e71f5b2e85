"""CPU time of processes and of the whole machine, read from /proc (Linux)."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_BUSY_FIELDS = (1, 2, 3, 6, 7, 8)
"""Of the `cpu` line of /proc/stat: user, nice, system, irq, softirq, steal (proc(5))."""


class CpuTimes(msgspec.Struct, frozen=True):
    """CPU seconds used up to `at_s` of the monotonic clock."""

    at_s: float
    own_s: float
    backend_s: float
    machine_s: float


def cpu_times(backend_pids: Sequence[int] = ()) -> CpuTimes:
    """The times now. A process that has gone, or a system without /proc, counts zero."""
    backend_s = sum(_process_s(pid) for pid in backend_pids)
    return CpuTimes(time.monotonic(), time.process_time(), backend_s, _machine_s())


def _process_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S  # utime and stime, counted after the name


def _machine_s() -> float:
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return 0.0
    return sum(int(fields[place]) for place in _BUSY_FIELDS) / _TICKS_PER_S
