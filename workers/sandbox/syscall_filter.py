"""Which system calls a child may make, and that as a program for the kernel (seccomp(2)).

A list of what is allowed: all else fails with EPERM and is named in the log. It fails, and does not kill,
because what a C library or interpreter calls changes with its version: a call that nobody foresaw costs a
request or a convenience and not the drive, and a user's own backend gets an exception that says where.
"""

import fcntl
import os
import socket
import struct
import sys

from ringblk.shm.platform import sandbox_calls

BLKDISCARD = 0x1277
BLKZEROOUT = 0x127F
TCGETS = 0x5401
FIONREAD = 0x541B
FIONBIO = 0x5421
FIONCLEX = 0x5450
FIOCLEX = 0x5451
PROT_EXEC = 4
CLONE_THREAD = 0x10000
PR_SET_NAME = 15
F_SETSIG = 10
F_SETOWN_EX = 15

COMMON = """
    read write writev close lseek newfstatat fstat recvmsg sendmsg dup fcntl
    mmap mprotect munmap mremap madvise brk futex membarrier getrandom
    rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack restart_syscall kill tgkill exit exit_group
    getpid gettid getppid getcpu sched_yield sched_getaffinity rseq set_robust_list
    clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time poll ppoll select pselect6
"""
"""The channel, the log, memory, signals, time: what every child needs. Names as in syscalls(2)."""

FILE_CALLS = "pread64 pwrite64 preadv pwritev preadv2 pwritev2 fdatasync fsync fallocate ioctl"
"""Requests on an image."""

LOCK_CALLS = "fcntl(F_SETLKW)"
"""Locks that end with their process: for a backend whose processes take turns at something."""

FLAG_CALLS = "fcntl(F_SETFL)"
"""Changing a descriptor's flags: for a backend that has sockets and no file."""

DISPATCHER_CALLS = "epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 sched_setaffinity"

ADOPTION_CALLS = "accept4 getsockopt getsockname"
"""Another control plane may come to a dispatcher: on a socket that it was given, nowhere else."""

URING_CALLS = "io_uring_enter"

USER_CODE_CALLS = f"""
    {FILE_CALLS}
    open openat stat lstat statx access faccessat faccessat2 readlink readlinkat getdents64 getcwd statfs
    fstatfs
    rename renameat renameat2 mkdir mkdirat rmdir unlink unlinkat symlinkat linkat ftruncate fchmod
    umask flock readv sync_file_range fadvise64 readahead sendfile copy_file_range splice
    pipe pipe2 dup2 dup3 close_range eventfd2 memfd_create timerfd_create timerfd_settime timerfd_gettime
    epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 msync mlock munlock mincore
    sendto recvfrom sendmmsg recvmmsg shutdown getsockopt setsockopt getsockname getpeername
    clone clone3 prctl sched_getparam sched_getscheduler times getrusage uname sysinfo
    getuid geteuid getgid getegid getgroups
"""
"""What a backend of a user's own may need besides. Landlock says which files it may open.

Not `truncate` and `utimensat`: they take names, and Landlock looks at them late (version 3) or never.
"""

# A program is made of `struct sock_filter` (linux/filter.h): code, jumps if true and if false, operand.
_INSTRUCTION = struct.Struct("=HBBI")
_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS: a word of `struct seccomp_data`
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16
_ALLOW = 0x7FFF0000
_TRAP = 0x00030000
_KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000
_ENOSYS = 38
_OWN_PID = 0x7D1D_7D1D  # stands for it: children have different ones, and making a program costs memory

Instruction = tuple[int, int, int, int]


def _answer(result: int) -> list[Instruction]:
    return [(_RETURN, 0, 0, result)]


def _load_argument(index: int) -> Instruction:
    return (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * index)  # its lower half, little-endian: all of an int


def _allow_if_one_of(index: int, values: list[int]) -> list[Instruction]:
    checks: list[Instruction] = [_load_argument(index)]
    for value in values:
        checks += [(_JUMP_IF_EQUAL, 0, 1, value), *_answer(_ALLOW)]
    return checks + _answer(_TRAP)


def _refuse_if_one_of(index: int, values: list[int]) -> list[Instruction]:
    checks: list[Instruction] = [_load_argument(index)]
    for value in values:
        checks += [(_JUMP_IF_EQUAL, 0, 1, value), *_answer(_TRAP)]
    return checks + _answer(_ALLOW)


def _allow_if_masked(index: int, mask: int, value: int) -> list[Instruction]:
    checks: list[Instruction] = [_load_argument(index), (_AND, 0, 0, mask), (_JUMP_IF_EQUAL, 0, 1, value)]
    return checks + _answer(_ALLOW) + _answer(_TRAP)


def _own_checks(names: list[str], runs_user_code: bool) -> dict[str, list[Instruction]]:
    """Calls that are allowed with some arguments only, or answered in another way."""
    checks = {
        "kill": _allow_if_one_of(0, [_OWN_PID]),
        "tgkill": _allow_if_one_of(0, [_OWN_PID]),
        "sched_setaffinity": _allow_if_one_of(0, [0]),  # its own
        "ioctl": _allow_if_one_of(1, [BLKDISCARD, BLKZEROOUT]),
    }
    if runs_user_code:
        checks["ioctl"] = _allow_if_one_of(
            1, [BLKDISCARD, BLKZEROOUT, TCGETS, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX]
        )
        checks["clone"] = _allow_if_masked(0, CLONE_THREAD, CLONE_THREAD)
        checks["clone3"] = _answer(_ERRNO | _ENOSYS)  # its flags cannot be seen; C libraries then use clone
        checks["prctl"] = _allow_if_one_of(0, [PR_SET_NAME])
        # Whose signals come when a descriptor is ready: a way to signal others.
        checks["fcntl"] = _refuse_if_one_of(1, [fcntl.F_SETOWN, F_SETSIG, F_SETOWN_EX])
        return checks
    # Not F_SETFL: O_DIRECT belongs to all. Not the image's lock, of an open file description: so does that.
    allowed = [fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_DUPFD_CLOEXEC]
    allowed += [fcntl.F_SETLKW] if LOCK_CALLS in names else []
    allowed += [fcntl.F_SETFL] if FLAG_CALLS in names else []
    checks["fcntl"] = _allow_if_one_of(1, allowed)
    checks["socket"] = _allow_if_one_of(0, [socket.AF_UNIX, socket.AF_INET, socket.AF_INET6])
    checks["mmap"] = checks["mprotect"] = _allow_if_masked(2, PROT_EXEC, 0)
    return checks


def filter_program(names: str, *, runs_user_code: bool) -> bytes:
    """The filter that allows these system calls, but for the pid of the process that it is for."""
    numbers = sandbox_calls.call_numbers()
    checks = _own_checks(names.split(), runs_user_code)
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_JUMP_IF_EQUAL, 1, 0, sandbox_calls.AUDIT_ARCH),
        *_answer(_KILL_PROCESS),  # another architecture's numbers mean other calls
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    for name in dict.fromkeys(names.split()):
        if name in numbers:  # an older call may be missing on a newer machine
            block = checks.get(name) or _answer(_ALLOW)
            program += [(_JUMP_IF_EQUAL, 0, len(block), numbers[name]), *block]
    program += _answer(_TRAP)
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)


def own_program(program: bytes) -> bytes:
    """A program of `filter_program` for this process."""
    return program.replace(_OWN_PID.to_bytes(4, sys.byteorder), os.getpid().to_bytes(4, sys.byteorder))


def call_name(number: int) -> str:
    """A system call as a log line names it."""
    for name, known_number in sandbox_calls.call_numbers().items():
        if number == known_number:
            return f"{name} (system call {number})"
    return f"system call {number}"
