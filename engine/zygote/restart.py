"""Starting the control plane again: what a zygote keeps for that, and how it does it.

The next supervisor is the same program with the same arguments, a child of the zygote. It has its end of a
new channel (`ADOPT_VARIABLE`), in which the first message waits: `TakeOn`.
"""

import logging
import os
import signal
import socket
from collections.abc import Mapping, Sequence

import msgspec

from ringblk.engine.base.program_start import ADOPT_VARIABLE, ProgramStart
from ringblk.engine.base.restart_limit import RestartLimit
from ringblk.engine.options.config import EngineConfig
from ringblk.engine.zygote.kept_parts import part_place
from ringblk.engine.zygote.kept_rings import ring_owner
from ringblk.engine.zygote.left_sockets import Sockets, list_sockets, socket_number
from ringblk.engine.zygote.messages import KeepSocket, TakeOn
from ringblk.shm.platform.process import dies_with_parent, watch_process
from ringblk.shm.sync.channel import Channel
from ringblk.shm.sync.process import crash_point

_log = logging.getLogger(__name__)

_TOLD_TO_END = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class NextSupervisor(msgspec.Struct, frozen=True):
    """One that was started."""

    pid: int
    pidfd: int
    end: socket.socket
    """The zygote's end of the channel to it."""


class Restart:
    """Of one engine's control plane. The supervisor has it, too, for zygotes that come later."""

    def __init__(
        self,
        start: ProgramStart,
        program_id: str,
        config_fd: int,
        kept_fds: Sequence[int],
        launcher_pidfd: int = -1,
        sockets: Mapping[int, KeepSocket] | None = None,
    ) -> None:
        """`config_fd` is what the next supervisor is to read, `kept_fds` are inherited sockets to listen on.

        `program_id` tells the program that runs from the one before an upgrade. `launcher_pidfd` is of a
        process that the engine is to end with; -1: there is none. `sockets` are those of the supervisor
        before this one.
        """
        self.start = start
        self.program_id = program_id
        self.config_fd = config_fd
        self._kept = {fd: os.fstat(fd).st_ino for fd in kept_fds}
        self.launcher_pidfd = launcher_pidfd
        self.sockets = dict(sockets or {})
        """Made by this supervisor or one before it, for the next one; the supervisor's to change."""
        self._limit = RestartLimit()

    @property
    def kept_fds(self) -> list[int]:
        """The sockets to listen on."""
        return list(self._kept)

    def check_kept(self) -> None:
        """Forget those that this process has closed; their numbers may stand for something else."""
        self._kept = {fd: inode for fd, inode in self._kept.items() if _inode_of(fd) == inode}
        self.sockets = {fd: kept for fd, kept in self.sockets.items() if _is_still(fd, kept)}

    def let_go(self, fd: int) -> None:
        """Nobody is to listen there any more."""
        self._kept.pop(fd, None)

    @property
    def fds(self) -> set[int]:
        """All that a zygote keeps."""
        return {self.config_fd, *self.kept_fds, *self.sockets, self.launcher_pidfd} - {-1}

    def allows(self, status: int | None) -> bool:
        """Whether another is to be started after one that has not taken leave.

        `status` is its wait status, where the zygote was its parent. One that came to an end by itself, or
        was told to end before it could listen to that, has no successor. Nor has one of a service manager's,
        which starts another itself.
        """
        if status is not None and (os.WIFEXITED(status) or os.WTERMSIG(status) in _TOLD_TO_END):
            return False
        if self.start.has_manager:
            _log.warning("the control plane has died; it is for the service manager to start another")
            return False
        if not self._limit.allows(0, 0, own_fault=True):
            _log.error("the engine ends: its control plane dies again and again")
            return False
        return True

    def start_another(self, config_fd: int, sockets: Sockets) -> NextSupervisor:
        """Start the next supervisor, which has these sockets besides. Raises `OSError`."""
        sockets_fd = list_sockets(sockets)
        ours, theirs = Channel.socketpair()
        with theirs:
            has_launcher = self.launcher_pidfd >= 0
            message = msgspec.msgpack.encode(TakeOn(os.getpid(), has_launcher))
            launcher = [self.launcher_pidfd] if has_launcher else []
            socket.send_fds(ours, [message], [config_fd, sockets_fd, *launcher])
            os.close(sockets_fd)
            inherited = [theirs.fileno(), *self.kept_fds, *sockets]
            pid = self.start.again({ADOPT_VARIABLE: str(theirs.fileno())}, inherited)
            crash_point("control plane: supervisor started")
            return NextSupervisor(pid, watch_process(pid), ours)


def listening_fds(config: EngineConfig) -> list[int]:
    """The sockets that this process has inherited for its drives to listen on.

    One that is connected is left out: who is at its other end is to see that the control plane has died.
    """
    inherited = [drive.fd for drive in config.drives.values() if drive.fd is not None]
    return [fd for fd in inherited if _is_listening(fd)]


def _inode_of(fd: int) -> int | None:
    try:
        return os.fstat(fd).st_ino
    except OSError:
        return None


def _is_still(fd: int, kept: KeepSocket) -> bool:
    if ring_owner(kept) or part_place(kept) is not None:
        return _inode_of(fd) is not None  # it is forgotten before it is closed
    try:
        return socket_number(fd) == kept.identity
    except OSError:
        return False


def _is_listening(fd: int) -> bool:
    try:
        with socket.socket(fileno=os.dup(fd)) as end:
            return bool(end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False  # no socket, or none at all: whoever is to listen there says so


def launcher_pidfd() -> int:
    """A pidfd of the process that this one is to end with (PR_SET_PDEATHSIG); -1: there is none.

    Raises `OSError`.
    """
    return watch_process(os.getppid()) if dies_with_parent() else -1
