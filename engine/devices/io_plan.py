"""How requests are carried out: by whom, and with which system calls."""

import errno
import mmap
import os
import time

import msgspec

from ringblk.engine.base.program_error import ProgramError
from ringblk.workers.backends.file import FileBackend
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.python import PythonBackend
from ringblk.workers.uring.ring import Uring

EVERYTHING_NS = (1 << 64) - 1
INLINE_LIMIT_NS = 20_000
"""A request that takes less is done before a worker is awake: half of a wake-up across cores."""


_URING_SYSCTL = "/proc/sys/kernel/io_uring_disabled"
MEMORY_FILE_SYSTEMS = {"tmpfs", "ramfs", "hugetlbfs"}
WAITING_FILE_SYSTEMS = {"fuse", "fuseblk", "virtiofs"}
"""Where the kernel carries out what an io_uring is given before it returns, however long that takes."""
SAMPLE_BYTES = 4096
SAMPLE_COUNT = 16


class IoPlan(msgspec.Struct, frozen=True):
    """Who carries requests out. `inline_limit_ns` is as in `InlineGate`."""

    name: str = "psync"
    """The `--io-engine` it amounts to; `inline`: the dispatcher where that is quicker, else the workers."""
    reason: str = "asked for"
    uses_workers: bool = True
    uses_worker_uring: bool = False
    uses_dispatcher_uring: bool = False
    inline_limit_ns: int = 0


def plan_io(io_engine: str, backend: NativeBackend) -> IoPlan:
    """What an `--io-engine` means for this backend. Raises `ProgramError` where it cannot be had.

    `auto` lets the dispatcher carry out what it measures to be quicker than a wake-up, where that is to be
    expected (a file in memory, or one that reads as fast). Another file that bypasses the page cache goes
    through io_uring, of the dispatcher while it has time and of the workers beyond that. The rest is for
    workers.
    """
    match io_engine:
        case "sync":
            return IoPlan(name=io_engine, uses_workers=False, inline_limit_ns=EVERYTHING_NS)
        case "psync":
            return IoPlan()
        case "io_uring":
            _check_uring(io_engine, backend)
            return IoPlan(name=io_engine, uses_worker_uring=True)
        case "io_uring_inline":
            _check_uring(io_engine, backend)
            return IoPlan(name=io_engine, uses_worker_uring=True, uses_dispatcher_uring=True)
    if isinstance(backend, FileBackend):
        return _plan_file(backend)
    # A user's code may block, which the dispatcher must not.
    if isinstance(backend, PythonBackend):
        return IoPlan(reason="a backend of a user's own may block")
    return IoPlan(name="inline", reason="the backend is in memory", inline_limit_ns=INLINE_LIMIT_NS)


def _plan_file(backend: FileBackend) -> IoPlan:
    file_system = _file_system(backend.fileno())
    if file_system in MEMORY_FILE_SYSTEMS:
        return IoPlan(name="inline", reason="the image is in memory", inline_limit_ns=INLINE_LIMIT_NS)
    if file_system.split(".")[0] in WAITING_FILE_SYSTEMS:
        return IoPlan(reason=f"who asks {file_system} waits for it, with io_uring, too")
    if _reads_quickly(backend):
        reason = "the image reads as quickly as memory"
        return IoPlan(name="inline", reason=reason, inline_limit_ns=INLINE_LIMIT_NS)
    if not backend.direct:
        return IoPlan(reason="it goes through the page cache, which may block")
    if (problem := _uring_problem()) is not None:
        return IoPlan(reason=f"io_uring is refused: {problem}")
    reason = "it goes past the page cache"
    return IoPlan(name="io_uring_inline", reason=reason, uses_worker_uring=True, uses_dispatcher_uring=True)


def _check_uring(io_engine: str, backend: NativeBackend) -> None:
    """Raises `ProgramError` where there is no io_uring for this backend."""
    if not isinstance(backend, FileBackend):
        raise ProgramError(f"--io-engine {io_engine}: only for --blk-file")
    if (problem := _uring_problem()) is not None:
        raise ProgramError(f"--io-engine {io_engine}: {problem}", exit_status=1)


def _file_system(fd: int) -> str:
    """The type of the file system that a file is on; empty where it cannot be told."""
    device = os.fstat(fd).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo") as file:
            mounts = file.read().splitlines()
    except OSError:
        return ""
    for fields in map(str.split, mounts):  # proc(5): field 3 the device, then "-" and the type
        if fields[2] == number:
            return fields[fields.index("-") + 1]
    return ""


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
    """Why there is no io_uring here, and who says so; None where there is."""
    try:
        Uring(2)
    except OSError as error:
        return _uring_refusal(error, _first_word(_URING_SYSCTL), _seccomp_mode())
    return None


def _uring_refusal(error: OSError, sysctl: str, seccomp_mode: str) -> str:
    """What to change: the sysctl (Linux 6.6: 1 leaves it to a group, 2 to nobody), or a seccomp filter."""
    text = str(error.strerror or error)
    if error.errno == errno.EPERM and sysctl in ("1", "2"):
        return f"{text}: sysctl kernel.io_uring_disabled is {sysctl}"
    if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS) and seccomp_mode == "2":
        return f"{text}: by a seccomp filter, such as a container's"
    if error.errno == errno.ENOSYS:
        return f"{text}: this kernel has none"
    return text


def _first_word(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().split()[0]
    except (OSError, IndexError):
        return ""


def _seccomp_mode() -> str:
    """Of this process (proc(5)): 2 where a filter holds it."""
    try:
        with open("/proc/self/status") as status_file:
            return next((line.split()[1] for line in status_file if line.startswith("Seccomp:")), "")
    except OSError:
        return ""
