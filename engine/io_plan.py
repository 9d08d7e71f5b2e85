"""How requests are carried out: by whom, and with which system calls."""

import mmap
import os
import time

import msgspec

from ringblk.engine.config import ConfigError
from ringblk.workers.file_backend import FileBackend
from ringblk.workers.native_backend import NativeBackend
from ringblk.workers.python_backend import PythonBackend
from ringblk.workers.uring import Uring

EVERYTHING_NS = (1 << 64) - 1
INLINE_LIMIT_NS = 20_000
"""A request that takes less is done before a worker is awake: half of a wake-up across cores."""


MEMORY_FILE_SYSTEMS = {"tmpfs", "ramfs", "hugetlbfs"}
SAMPLE_BYTES = 4096
SAMPLE_COUNT = 16


class IoPlan(msgspec.Struct, frozen=True):
    """Who carries requests out. `inline_limit_ns` is as in `InlineGate`."""

    uses_workers: bool = True
    uses_worker_uring: bool = False
    uses_dispatcher_uring: bool = False
    inline_limit_ns: int = 0


def plan_io(io_engine: str, backend: NativeBackend) -> IoPlan:
    """What an `--io-engine` means for this backend. Raises `ConfigError` where it cannot be had.

    `auto` lets the dispatcher carry out what it measures to be quicker than a wake-up, where that is to be
    expected (a file in memory, or one that reads as fast). Another file that bypasses the page cache goes
    through io_uring, of the dispatcher while it has time and of the workers beyond that. The rest is for
    workers.
    """
    match io_engine:
        case "sync":
            return IoPlan(uses_workers=False, inline_limit_ns=EVERYTHING_NS)
        case "psync":
            return IoPlan()
        case "io_uring":
            _check_uring(io_engine, backend)
            return IoPlan(uses_worker_uring=True)
        case "io_uring_inline":
            _check_uring(io_engine, backend)
            return IoPlan(uses_worker_uring=True, uses_dispatcher_uring=True)
    if isinstance(backend, FileBackend):
        is_quick = _lies_in_memory(backend.fileno()) or _reads_quickly(backend)
        uses_uring = backend.direct and not is_quick and _uring_problem() is None
        return IoPlan(
            uses_worker_uring=uses_uring,
            uses_dispatcher_uring=uses_uring,
            inline_limit_ns=INLINE_LIMIT_NS * is_quick,
        )
    # A user's code may block, which the dispatcher must not.
    is_user_code = isinstance(backend, PythonBackend)
    return IoPlan(inline_limit_ns=INLINE_LIMIT_NS * (not is_user_code))


def _check_uring(io_engine: str, backend: NativeBackend) -> None:
    """Raises `ConfigError` where there is no io_uring for this backend."""
    if not isinstance(backend, FileBackend):
        raise ConfigError(f"--io-engine {io_engine}: only for --blk-file")
    if (problem := _uring_problem()) is not None:
        raise ConfigError(f"--io-engine {io_engine}: {problem}", exit_status=1)


def _lies_in_memory(fd: int) -> bool:
    """Whether a file is on a file system without a disk."""
    device = os.fstat(fd).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo") as file:
            mounts = file.read().splitlines()
    except OSError:
        return False
    for fields in map(str.split, mounts):  # proc(5): field 3 the device, then "-" and the type
        if fields[2] == number:
            return fields[fields.index("-") + 1] in MEMORY_FILE_SYSTEMS
    return False


def _reads_quickly(backend: FileBackend) -> bool:
    """Whether data of the file, read here and there past the page cache, is as near as memory.

    Holes say nothing of the disk, so only places with data count; with few of them, the answer is no.
    """
    if not backend.direct:
        return False  # what the page cache answers says nothing of the rest
    buffer = mmap.mmap(-1, SAMPLE_BYTES)  # aligned, as direct I/O wants it
    took_ns = []
    for index in range(SAMPLE_COUNT):
        place = backend.size_bytes * index // SAMPLE_COUNT
        try:
            offset_bytes = os.lseek(backend.fileno(), place, os.SEEK_DATA) // SAMPLE_BYTES * SAMPLE_BYTES
            started_ns = time.perf_counter_ns()
            if os.preadv(backend.fileno(), [buffer], offset_bytes) == SAMPLE_BYTES:
                took_ns.append(time.perf_counter_ns() - started_ns)
        except OSError:  # no data from here on, or no SEEK_DATA
            continue
    return len(took_ns) >= SAMPLE_COUNT // 2 and sorted(took_ns)[len(took_ns) // 2] < INLINE_LIMIT_NS


def _uring_problem() -> str | None:
    """Why there is no io_uring here (old kernel, seccomp, sysctl), or None."""
    try:
        Uring(2)
    except OSError as error:
        return str(error.strerror or error)
    return None
