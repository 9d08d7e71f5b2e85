"""What the children of an engine may do: no more than their work needs, whatever a guest makes them do.

The supervisor makes one `Sandbox` before it forks, and each child goes into it in two steps, both before it
has mapped any guest memory: `drop_privileges`, then, after a user's backend has had its `start_worker`,
`confine`. Nothing leads out again. docs/sandbox.md says what is allowed to whom, and why.

Landlock: https://docs.kernel.org/userspace-api/landlock.html. The numbers are those of linux/landlock.h.
"""

import contextlib
import logging
import os
import stat
import struct
from collections.abc import Iterable

from ringblk.workers.sandbox import calls as sandbox_calls
from ringblk.workers.sandbox.process_user import ProcessUser
from ringblk.workers.sandbox.syscall_filter import (
    COMMON,
    DISPATCHER_CALLS,
    URING_CALLS,
    USER_CODE_CALLS,
    call_name,
    filter_program,
    own_program,
)

_log = logging.getLogger(__name__)

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE = (1 << bit for bit in range(6))
_MAKE_CHAR, _MAKE_DIR, _MAKE_REG, _MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM = (
    1 << bit for bit in range(6, 13)
)
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15  # versions 2, 3 and 5
_FILE_RIGHTS = _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_FOLDER_RIGHTS = (
    _FILE_RIGHTS
    | _READ_DIR
    | _REMOVE_DIR
    | _REMOVE_FILE
    | _MAKE_DIR
    | _MAKE_REG
    | _MAKE_FIFO
    | _MAKE_SYM
    | _REFER
)
_NET_RIGHTS = 3  # bind and connect of TCP, version 4
_SCOPES = 3  # abstract unix sockets and signals of processes outside, version 6
_ATTRIBUTES = struct.Struct(
    "=QQQ"
)  # struct landlock_ruleset_attr: handled_access_fs, handled_access_net, scoped


class SandboxError(Exception):
    """The sandbox cannot be had. The message says what is missing: do without it, or use another kernel."""


class Sandbox:
    """Made in the supervisor, inherited by its children.

    `storage_calls` are the system calls that requests on the storage need (`NativeBackend.system_calls`).
    `user` is whom to run as, where that is asked for. What this kernel lacks is `missing`, in words, and is
    left out. `system_calls` are those of the device kind. `confines` is False where nothing was asked for but
    the user. Raises `OSError` for a path of `allowed_paths` that cannot be opened.
    """

    def __init__(
        self,
        *,
        confines: bool,
        storage_calls: str = "",
        runs_user_code: bool = False,
        allowed_paths: Iterable[str] = (),
        user: ProcessUser | None = None,
        system_calls: str = "",
    ) -> None:
        self._confines = confines
        self.user = user
        self._storage_calls = storage_calls
        self._runs_user_code = runs_user_code
        self._system_calls = system_calls
        self._ruleset_fd = -1
        self._has_filters = False
        self._programs: dict[tuple[str, ...], bytes] = {}
        self.missing: list[str] = []
        if not confines:
            return
        version = sandbox_calls.landlock_version()
        if version < 0:
            self.missing.append(f"Landlock ({os.strerror(-version)})")
        else:
            self._ruleset_fd = _make_ruleset(version, allowed_paths)
        problem = sandbox_calls.seccomp_problem()
        if problem:
            self.missing.append(f"seccomp filters ({os.strerror(-problem)})")
            return
        self._has_filters = True
        for groups in (("",), (URING_CALLS,), (DISPATCHER_CALLS, ""), (DISPATCHER_CALLS, URING_CALLS)):
            self._program(groups)  # here, where it is shared: what a child makes is its own memory

    @property
    def fds(self) -> tuple[int, ...]:
        """The descriptors that a child has to have for it."""
        return (self._ruleset_fd,) if self._ruleset_fd >= 0 else ()

    def close(self) -> None:
        """No more children are held to it."""
        for fd in self.fds:
            os.close(fd)
        self._ruleset_fd = -1

    def drop_privileges(self) -> None:
        """Take on the user; give up all capabilities and every way to new ones. Raises `OSError`."""
        if self._confines:
            sandbox_calls.drop_bounding_set()
        if self.user is not None:
            self.user.take_on()
        if self._confines:
            _check("capset", sandbox_calls.drop_capabilities())
            _check("prctl(PR_SET_NO_NEW_PRIVS)", sandbox_calls.set_no_new_privs())

    def confine(self, *groups: str) -> None:
        """Hold this process to its files and system calls, with the groups of its kind (syscall_filter.py).

        Raises `SandboxError` and `OSError`.
        """
        if self._runs_user_code and self._confines:
            self._check_threads()
        if self._ruleset_fd >= 0:
            _check("landlock_restrict_self", sandbox_calls.landlock_enter(self._ruleset_fd))
            os.close(self._ruleset_fd)
        if self._has_filters:
            _check("seccomp", sandbox_calls.load_filter(own_program(self._program(groups))))

    def _program(self, groups: tuple[str, ...]) -> bytes:
        if groups not in self._programs:
            own_code = USER_CODE_CALLS if self._runs_user_code else ""
            names = " ".join([COMMON, self._storage_calls, self._system_calls, *groups, own_code])
            self._programs[groups] = filter_program(names, runs_user_code=self._runs_user_code)
        return self._programs[groups]

    def _check_threads(self) -> None:
        """Landlock and seccomp are of threads: one that runs already would stay outside."""
        with contextlib.suppress(FileNotFoundError):  # no /proc
            if len(os.listdir("/proc/self/task")) > 1:
                raise SandboxError(
                    "the backend's start_worker has started threads, which would stay outside of the sandbox:"
                    " start them with the first request, or use --sandbox=off"
                )


def report_refused(who: str) -> None:
    """Log the system calls that the sandbox has refused to this process, each of them once."""
    for number in sandbox_calls.take_refused():
        _log.error("%s: the sandbox refuses %s", who, call_name(number))


def _make_ruleset(version: int, allowed_paths: Iterable[str]) -> int:
    """Rules that allow nothing but what is below `allowed_paths`, as far as this version of Landlock goes."""
    newest = {1: _REFER, 2: _TRUNCATE, 4: _IOCTL_DEV}  # by the last version without
    handled = _EXECUTE | _FOLDER_RIGHTS | _MAKE_CHAR | _MAKE_SOCK | _MAKE_BLOCK
    for last_version, right in newest.items():
        if version <= last_version:
            handled &= ~right
    attributes = _ATTRIBUTES.pack(handled, _NET_RIGHTS, _SCOPES)
    size_bytes = 8 if version < 4 else 16 if version < 6 else 24
    ruleset_fd = _check("landlock_create_ruleset", sandbox_calls.landlock_create(attributes[:size_bytes]))
    for path in allowed_paths:
        path_fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            is_folder = stat.S_ISDIR(os.fstat(path_fd).st_mode)
            rights = handled & (_FOLDER_RIGHTS if is_folder else _FILE_RIGHTS)
            _check("landlock_add_rule", sandbox_calls.landlock_allow(ruleset_fd, rights, path_fd))
        finally:
            os.close(path_fd)
    return ruleset_fd


def _check(call: str, result: int) -> int:
    """The boundary between errno and exceptions."""
    if result < 0:
        raise OSError(-result, f"{call}: {os.strerror(-result)}")
    return result
