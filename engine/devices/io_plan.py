"""How requests are carried out: by whom, and with which system calls."""

import errno

import msgspec

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.program_error import ProgramError
from ringblk.shm.platform.abilities import HAS_URING
from ringblk.shm.platform.kernel_files import sysctl
from ringblk.shm.platform.process_table import own_seccomp_mode
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.uring.ring import Uring

EVERYTHING_NS = (1 << 64) - 1
INLINE_LIMIT_NS = 20_000
"""A request that takes less is done before a worker is awake: half of a wake-up across cores."""

LOCKED_MEMORY_MEND = "raise the limit on locked memory: ulimit -l, LimitMEMLOCK="
"""Before Linux 5.12 rings count against it."""


class UringProblem(msgspec.Struct, frozen=True):
    """Why there is no io_uring here, who says so, and what to change."""

    what: str
    mend: str


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

    `auto` is decided by what the backend says of waiting for it. It lets the dispatcher carry out what it
    measures to be quicker than a wake-up, where that is to be expected (a backend in memory, or as fast).
    Another that keeps nobody waiting who only begins goes through io_uring, of the dispatcher while
    it has time and of the workers beyond that. The rest is for workers.
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
    waiting = backend.waiting()
    if waiting.is_asynchronous:
        return IoPlan(name="sync", reason=waiting.reason, uses_workers=False, inline_limit_ns=EVERYTHING_NS)
    if not waiting.may_block:
        return IoPlan(name="inline", reason=waiting.reason, inline_limit_ns=INLINE_LIMIT_NS)
    if waiting.sample_ns is not None and waiting.sample_ns < INLINE_LIMIT_NS:
        reason = "the image reads as quickly as memory"
        return IoPlan(name="inline", reason=reason, inline_limit_ns=INLINE_LIMIT_NS)
    if not waiting.begins_at_once:
        return IoPlan(reason=waiting.reason)
    if (problem := uring_problem()) is not None:
        return IoPlan(reason=f"io_uring is refused: {problem.what}")
    return IoPlan(
        name="io_uring_inline", reason=waiting.reason, uses_worker_uring=True, uses_dispatcher_uring=True
    )


def _check_uring(io_engine: str, backend: NativeBackend) -> None:
    """Raises `ProgramError` where there is no io_uring for this backend."""
    if backend.fd < 0:
        raise ProgramError(f"--io-engine {io_engine}: only for --blk-file and --overlay")
    if (problem := uring_problem()) is not None:
        raise ProgramError(f"--io-engine {io_engine}: {problem.what}", ExitStatus.FAILED)


def uring_problem() -> UringProblem | None:
    """None where there is an io_uring: one is made."""
    if not HAS_URING:
        return UringProblem("there is none in the portable forms", "Linux has one; docs/portability.md")
    try:
        Uring(2)
    except OSError as error:
        return _uring_refusal(error, sysctl("kernel/io_uring_disabled"), own_seccomp_mode())
    return None


def _uring_refusal(error: OSError, disabled: str, seccomp_mode: str) -> UringProblem:
    """What to change: the sysctl (Linux 6.6: 1 leaves it to a group, 2 to nobody), or a seccomp filter."""
    text = str(error.strerror or error)
    if error.errno == errno.EPERM and disabled in ("1", "2"):
        what = f"{text}: sysctl kernel.io_uring_disabled is {disabled}"
        return UringProblem(what, "sysctl -w kernel.io_uring_disabled=0")
    if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS) and seccomp_mode == "2":
        what = f"{text}: by a seccomp filter, such as a container's"
        return UringProblem(what, "allow io_uring_setup, io_uring_register and io_uring_enter in its profile")
    if error.errno == errno.ENOSYS:
        return UringProblem(f"{text}: this kernel has none", "Linux 5.19 or later, with CONFIG_IO_URING")
    if error.errno == errno.EINVAL:
        return UringProblem(f"{text}: this kernel's is too old", "Linux 5.19 or later")
    return UringProblem(text, LOCKED_MEMORY_MEND if error.errno == errno.ENOMEM else "see dmesg")
