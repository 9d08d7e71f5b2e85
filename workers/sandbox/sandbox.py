"""What the children of an engine may do: no more than their work needs, whatever a guest makes them do.

The supervisor makes one `Sandbox` for a drive; what each child is told of it is its `Confinement`.
docs/sandbox.md says what is allowed to whom, and why.

Landlock: https://docs.kernel.org/userspace-api/landlock.html. The numbers are those of linux/landlock.h.
"""

import os
import stat
import struct
from collections.abc import Iterable

from ringblk.shm.platform import sandbox_calls
from ringblk.shm.platform.descriptors import PATH_ONLY
from ringblk.workers.sandbox.confinement import Confinement, Privileges, check_call
from ringblk.workers.sandbox.process_user import ProcessUser
from ringblk.workers.sandbox.syscall_filter import COMMON, USER_CODE_CALLS, filter_program

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
_NODE_RIGHTS = _MAKE_CHAR | _MAKE_SOCK | _MAKE_BLOCK
_CONNECT_TCP = 2
_NET_RIGHTS = 1 | _CONNECT_TCP  # bind and connect of TCP, version 4
_SCOPES = 3  # abstract unix sockets and signals of processes outside, version 6
_PATH_BENEATH, _NET_PORT = 1, 2
# What is allowed, and below which descriptor's folder or on which port.
_PATH_RULE, _PORT_RULE = struct.Struct("=Qi"), struct.Struct("=QQ")
_ATTRIBUTES = struct.Struct(
    "=QQQ"
)  # struct landlock_ruleset_attr: handled_access_fs, handled_access_net, scoped


class Sandbox:
    """Made in the supervisor, which holds its descriptor.

    `storage_calls` are the system calls that requests on the storage need (`NativeBackend.system_calls`).
    `user` is whom to run as, where that is asked for. What this kernel lacks is `missing`, in words, and is
    left out. `system_calls` are those of the device kind, and `kept_capabilities` what it cannot do without
    (a bit each). `opens_handles`: it opens files by their handles, which have no paths for Landlock.
    `confines` is False where nothing was asked for but
    the user. Raises `OSError` for a path of `allowed_paths` that cannot be opened.
    """

    def __init__(
        self,
        *,
        confines: bool,
        storage_calls: str = "",
        runs_user_code: bool = False,
        allowed_paths: Iterable[str] = (),
        allowed_ports: Iterable[int] = (),
        user: ProcessUser | None = None,
        system_calls: str = "",
        kept_capabilities: int = 0,
        opens_handles: bool = False,
    ) -> None:
        self._confines = confines
        self.user = user
        self._storage_calls = storage_calls
        self._runs_user_code = runs_user_code
        self._system_calls = system_calls
        self._kept_capabilities = kept_capabilities
        self.ruleset_fd = -1
        """Landlock's rules, for a child to be held to; -1: there are none."""
        self._has_filters = False
        self._programs: dict[tuple[str, ...], bytes] = {}
        self.missing: list[str] = []
        if not confines:
            return
        version = sandbox_calls.landlock_version()
        if version < 0:
            self.missing.append(f"Landlock ({os.strerror(-version)})")
        else:
            self.ruleset_fd = _make_ruleset(
                version, allowed_paths, allowed_ports, opens_handles=opens_handles
            )
        problem = sandbox_calls.seccomp_problem()
        if problem:
            self.missing.append(f"seccomp filters ({os.strerror(-problem)})")
            return
        self._has_filters = True

    @property
    def privileges(self) -> Privileges:
        """What its processes give up, and the supervisor of a single drive too."""
        return Privileges(self._confines, self.user, self._kept_capabilities)

    def close(self) -> None:
        """No more children are held to it."""
        if self.ruleset_fd >= 0:
            os.close(self.ruleset_fd)
        self.ruleset_fd = -1

    def confinement(self, *groups: str) -> Confinement:
        """What a child is told of it that may make the calls of these groups (syscall_filter.py)."""
        return Confinement(
            privileges=self.privileges,
            program=self._program(groups) if self._has_filters else b"",
            has_ruleset=self.ruleset_fd >= 0,
            forbids_threads=self._runs_user_code and self._confines,
        )

    def _program(self, groups: tuple[str, ...]) -> bytes:
        if groups not in self._programs:
            own_code = USER_CODE_CALLS if self._runs_user_code else ""
            names = " ".join([COMMON, self._storage_calls, self._system_calls, *groups, own_code])
            self._programs[groups] = filter_program(names, runs_user_code=self._runs_user_code)
        return self._programs[groups]


def _make_ruleset(
    version: int, allowed_paths: Iterable[str], allowed_ports: Iterable[int], *, opens_handles: bool
) -> int:
    """Rules that allow nothing but what is below `allowed_paths`, and to connect to these ports of TCP.

    As far as this version of Landlock goes: before the fourth all ports can be connected to.
    """
    newest = {1: _REFER, 2: _TRUNCATE, 4: _IOCTL_DEV}  # by the last version without
    handled = _EXECUTE | _FOLDER_RIGHTS | _NODE_RIGHTS
    folder_rights = _FOLDER_RIGHTS
    if opens_handles:
        handled &= ~_FILE_RIGHTS
        folder_rights |= _NODE_RIGHTS
    for last_version, right in newest.items():
        if version <= last_version:
            handled &= ~right
    attributes = _ATTRIBUTES.pack(handled, _NET_RIGHTS, _SCOPES)
    size_bytes = 8 if version < 4 else 16 if version < 6 else 24
    ruleset_fd = check_call("landlock_create_ruleset", sandbox_calls.landlock_create(attributes[:size_bytes]))
    for path in allowed_paths:
        path_fd = os.open(path, PATH_ONLY | os.O_CLOEXEC)
        try:
            is_folder = stat.S_ISDIR(os.fstat(path_fd).st_mode)
            rights = handled & (folder_rights if is_folder else _FILE_RIGHTS)
            rule = _PATH_RULE.pack(rights, path_fd)
            check_call("landlock_add_rule", sandbox_calls.landlock_allow(ruleset_fd, _PATH_BENEATH, rule))
        finally:
            os.close(path_fd)
    for port in allowed_ports if version >= 4 else ():
        rule = _PORT_RULE.pack(_CONNECT_TCP, port)
        check_call("landlock_add_rule", sandbox_calls.landlock_allow(ruleset_fd, _NET_PORT, rule))
    return ruleset_fd
