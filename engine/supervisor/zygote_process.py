"""The zygote's process as the supervisor sees it: asked, watched, replaced."""

import asyncio
import contextlib
import contextvars
import errno
import logging
import os
import select
import signal
import time
from collections.abc import Callable, Collection, Sequence

from ringblk.engine.base.restart_limit import RestartLimit
from ringblk.engine.base.service_manager import ServiceManager
from ringblk.engine.supervisor.child import describe_end
from ringblk.engine.supervisor.process_parent import OnReaped, RingUnshared, cannot_watch
from ringblk.engine.supervisor.second_custody import SecondCustody
from ringblk.engine.supervisor.socket_custody import SocketCustody
from ringblk.engine.zygote.kept_rings import kept_ring
from ringblk.engine.zygote.messages import (
    Dropped,
    DropPrivileges,
    Ended,
    ForgetSocket,
    Fork,
    Forked,
    FromZygote,
    Import,
    KeepConfig,
    KeepSocket,
    LetGo,
    Refused,
    Unwatched,
)
from ringblk.engine.zygote.restart import Restart
from ringblk.engine.zygote.zygote import ZygoteEnd, fork_zygote, take_leave
from ringblk.shm.platform.process import copy_fd_of, signal_process
from ringblk.shm.platform.process_table import parent_of
from ringblk.shm.sync.channel import Channel, ChannelClosed, encode_message
from ringblk.shm.sync.process import crash_point
from ringblk.workers.backends.opening import import_backend
from ringblk.workers.sandbox.confinement import Privileges
from ringblk.workers.uring.ring import Uring

ATTEMPTS = 3
"""Zygotes that may die of one request before it is given up."""
ANSWER_TIMEOUT_S = 10.0
"""A zygote that has not answered by then does not run: it is killed."""
_LOOK_AGAIN_MS = 100

_log = logging.getLogger(__name__)


class ZygoteChild:
    """A process that a zygote has forked."""

    waits_for_message = True

    def __init__(
        self,
        pid: int,
        pidfd: int,
        uring: Uring | None,
        ring_fd: int = 0,
        forget: Callable[[int, int], None] | None = None,
    ) -> None:
        """`forget` is called with the process id and the ring's descriptor here, or -1."""
        self._forget = forget
        self._own_ring_fd = -1 if uring is None else uring.fileno()
        self.pid = pid
        self.pidfd = pidfd
        self.uring = uring
        self.ring_fd = ring_fd
        self._is_reaped = False
        self._status: int | None = None
        self._on_reaped: OnReaped | None = None
        self._context: contextvars.Context | None = None

    def forget_ring(self) -> None:
        """Neither the zygote nor the next one is to have it."""
        forget, self._forget = self._forget, None
        if forget is not None and self.ring_fd:
            forget(self.pid, self._own_ring_fd)

    def when_reaped(self, on_reaped: OnReaped) -> None:
        """Have it called once the zygote has told of its end; at once where that will not come any more."""
        if self._is_reaped:
            on_reaped(self._status)
        else:
            self._on_reaped = on_reaped
            self._context = contextvars.copy_context()  # it is of a drive, and the zygote's news of none

    def note_end(self, status: int | None) -> None:
        """The zygote has reaped it; None: it cannot tell any more, and only the pidfd says when that is."""
        self._is_reaped = True
        self._status = status
        on_reaped, self._on_reaped = self._on_reaped, None  # which knows who knows this child: no cycle
        if on_reaped is not None:
            asyncio.get_running_loop().call_soon(on_reaped, status, context=self._context)


class Zygote:
    """One zygote after the other, in whose place the next is forked from this process.

    The first may have started this process itself, in the place of a supervisor that has died.
    """

    inherits_storage = False

    def __init__(
        self,
        first: ZygoteEnd | None = None,
        restart: Restart | None = None,
        manager: ServiceManager | None = None,
    ) -> None:
        """`first` is there already; without it, one is forked when it is needed.

        With `restart` they outlive this process, and `manager` keeps the engine's sockets, too.
        """
        self.manager = manager or ServiceManager(None)
        self._first = first
        self.restart = restart
        """How this process is started again; None: it is not."""
        self._end: ZygoteEnd | None = None
        self._channel: Channel[FromZygote] | None = None
        self._living: dict[int, ZygoteChild] = {}
        self._limit = RestartLimit()
        self.custodies: set[SecondCustody] = set()
        self._imported: set[str] = set()
        """What the zygote was told to import."""
        self.sockets = SocketCustody(self)
        """What the supervisor after this one is to listen on."""
        self.left_pid = first.pid if first is not None and first.pidfd >= 0 else None
        """The process id of one that a control plane before this one has left, with its children."""

    def fileno(self) -> int:
        """The descriptor of its channel; -1: there is none yet."""
        if self._first is not None:
            return self._first.socket.fileno()
        return -1 if self._channel is None else self._channel.socket.fileno()

    def fork(self, fork: Fork, fds: Sequence[int], kept_fds: Collection[int]) -> ZygoteChild:
        """Have it forked; waits for the answer. Raises `OSError`."""
        assert not kept_fds, "a backend that can be handed over opens nothing for a process"
        answer, answer_fds = self._ask(fork, fds)
        match answer:
            case Forked():
                (pidfd,) = answer_fds
                try:
                    uring = _share_ring(fork, pidfd, answer.ring_fd)
                    child = self._child(answer.pid, pidfd, uring, answer.ring_fd)
                except OSError:
                    self.forget_ring(answer.pid)
                    self._forget(answer.pid, pidfd)
                    raise
                self._living[answer.pid] = child
                return child
            case Unwatched():
                raise cannot_watch(answer.error_number)
            case Refused():
                raise OSError(answer.error_number, os.strerror(answer.error_number))
            case _:
                raise AssertionError(f"the zygote answers with {answer}")

    def adopt(self, pid: int, pidfd: int, uring: Uring | None, ring_fd: int) -> ZygoteChild:
        """A process that a zygote has forked for a supervisor before this one.

        Where it has ended, or was forked by another zygote, nobody can say how it ends.
        """
        child = self._child(pid, pidfd, uring, ring_fd)
        has_other_parent = self.left_pid is None or parent_of(pid) != self.left_pid
        if has_other_parent or select.select([pidfd], [], [], 0)[0]:
            child.note_end(None)
        else:
            self._living[pid] = child
        return child

    def _child(self, pid: int, pidfd: int, uring: Uring | None, ring_fd: int) -> ZygoteChild:
        """Its ring is the next zygote's and the next supervisor's, too."""
        if uring is not None and self.restart is not None:
            self.restart.sockets[uring.fileno()] = kept_ring(pid)
        return ZygoteChild(pid, pidfd, uring, ring_fd, self.forget_ring)

    def forget_ring(self, pid: int, own_fd: int = -1) -> None:
        """Neither the zygote nor the next one is to have this process's io_uring; `own_fd` is it here."""
        if self.restart is not None:
            self.restart.sockets.pop(own_fd, None)
            self.tell(ForgetSocket(kept_ring(pid).identity))

    def _forget(self, pid: int, pidfd: int) -> None:
        """End a process that has not begun; nobody waits for its end."""
        with contextlib.suppress(ProcessLookupError):
            signal_process(pidfd, pid, signal.SIGKILL)
        self._living[pid] = ZygoteChild(pid, -1, None)
        os.close(pidfd)

    def drop_privileges(self, privileges: Privileges) -> None:
        """Have it give up what the supervisor gives up next. Raises `OSError`."""
        if self._first is None and self._channel is None:
            return  # the next one is forked from here
        answer, _ = self._ask(DropPrivileges(privileges))
        assert isinstance(answer, Dropped)
        if answer.error:
            raise OSError(errno.EPERM, answer.error)

    def have_imported(self, backend: str) -> None:
        """Have this kind of storage imported there: else each process does so, and has it for itself."""
        import_backend(backend)  # the next zygote is forked from here
        if backend not in self._imported:
            self._imported.add(backend)
            if self._first is not None or self._channel is not None:
                with contextlib.suppress(ChannelClosed):
                    self._connect().send(Import(backend))

    def keep_config(self, make: Callable[[], int]) -> None:
        """Have the supervisor after this one begin with another configuration; `make` gives its descriptor.

        Nothing, where none comes. Raises `OSError`.
        """
        if self.restart is None:
            return
        former, self.restart.config_fd = self.restart.config_fd, make()
        os.close(former)
        with contextlib.suppress(ChannelClosed):  # the next zygote has it from the fork
            self._connect().send(KeepConfig(), [self.restart.config_fd])
        crash_point("control plane: configuration sent")

    @property
    def is_behind(self) -> bool:
        """Whether it has not read what it was told, which it is told with the next message that it reads."""
        if self._channel is not None:
            with contextlib.suppress(ChannelClosed):
                self._channel.flush()
                return self._channel.has_unsent
        return False

    def tell(self, message: KeepSocket | ForgetSocket, fds: Sequence[int] = ()) -> None:
        """Have the zygote keep a socket, or no longer. The next one gets what `restart` says by the fork."""
        if self._channel is None and self._first is not None and not fds:  # nor is there an event loop yet
            with contextlib.suppress(OSError):
                if select.select([], [self._first.socket], [], ANSWER_TIMEOUT_S)[1]:
                    self._first.socket.send(encode_message(message))
        elif self._channel is not None or self._first is not None:
            with contextlib.suppress(ChannelClosed):
                self._connect().send(message, fds)

    def let_go(self, fd: int) -> None:
        """Nobody listens on this inherited socket any more, nor will the next supervisor."""
        if self.restart is not None and fd in self.restart.kept_fds:
            self.restart.let_go(fd)
            with contextlib.suppress(ChannelClosed):
                self._connect().send(LetGo(fd))

    def _ask(self, message: Fork | DropPrivileges, fds: Sequence[int] = ()) -> tuple[FromZygote, list[int]]:
        for _ in range(ATTEMPTS):
            channel = self._connect()
            try:
                channel.send(message, fds)
                crash_point("supervisor: zygote asked")
                return self._wait_answer(channel)
            except ChannelClosed:
                self._lose()
        raise OSError(errno.ECHILD, "the process that forks them (the zygote) dies each time")

    def _connect(self) -> Channel[FromZygote]:
        """The channel to the zygote; begins with one where there is none."""
        if self._channel is None:
            end, self._first = self._first or fork_zygote(self.restart), None
            crash_point("supervisor: zygote forked")
            self._end = end
            self._channel = Channel(end.socket, FromZygote)
            asyncio.get_running_loop().add_reader(end.socket.fileno(), self._read)
            for custody in self.custodies:
                custody.tell_again()
        return self._channel

    def _wait_answer(self, channel: Channel[FromZygote]) -> tuple[FromZygote, list[int]]:
        """The answer to what was sent. It takes a fork's time, so nothing else is done meanwhile."""
        looking = select.poll()
        looking.register(channel.socket, select.POLLIN)
        given_up_s = time.monotonic() + ANSWER_TIMEOUT_S
        while True:
            while (received := channel.receive()) is not None:
                if not isinstance(received[0], Ended):
                    return received
                self._note_end(received[0])
            if time.monotonic() > given_up_s:
                assert self._end is not None
                _log.error("the zygote (process %d) does not answer: killing it", self._end.pid)
                raise ChannelClosed
            channel.flush()
            looking.poll(_LOOK_AGAIN_MS)

    def _read(self) -> None:
        """What it says without being asked."""
        assert self._channel is not None
        try:
            while (received := self._channel.receive()) is not None:
                assert isinstance(received[0], Ended), "an answer that nobody waits for"
                self._note_end(received[0])
        except ChannelClosed:
            self._lose()

    def _note_end(self, ended: Ended) -> None:
        child = self._living.pop(ended.pid, None)
        if child is not None:  # else it was forked for a supervisor before this one
            child.note_end(ended.wait_status)

    def _lose(self) -> None:
        """It has died, or is made to. With `restart`, those of its children that have begun go on."""
        assert self._channel is not None
        assert self._end is not None
        asyncio.get_running_loop().remove_reader(self._channel.socket.fileno())
        self._channel.close()
        self._channel = None
        status = _kill_and_wait(self._end)
        crash_point("supervisor: zygote reaped")
        _log.warning("the zygote died: %s; another comes", describe_end(status))
        living, self._living = self._living, {}
        for child in living.values():
            child.note_end(None)
        if self.restart is not None and self._limit.allows(0, 0, own_fault=True):
            asyncio.get_running_loop().call_soon(self._be_outlived)

    def _be_outlived(self) -> None:
        """Have a zygote, though nothing is to be forked: it starts this process again."""
        try:
            self._connect()
        except OSError as error:
            _log.warning("nobody could start the control plane again now, should it die: %s", error)

    def leave(self) -> None:
        """Have it end and start nobody; its children that have begun go on. Another may come later."""
        if self._channel is not None:
            asyncio.get_running_loop().remove_reader(self._channel.socket.fileno())
        self.close()
        self._channel = self._end = None
        living, self._living = self._living, {}
        for child in living.values():
            child.note_end(None)

    def close(self) -> None:
        """End it; what it has forked has ended."""
        end, self._first = self._first or self._end, None
        if end is not None:
            take_leave(end)  # nothing, where it was lost


def _kill_and_wait(end: ZygoteEnd) -> int | None:
    """End a zygote; its wait status, if it was a child of this process."""
    if end.pidfd < 0:
        os.kill(end.pid, signal.SIGKILL)
        return os.waitpid(end.pid, 0)[1]
    with contextlib.suppress(ProcessLookupError):
        signal_process(end.pidfd, end.pid, signal.SIGKILL)
    select.select([end.pidfd], [], [])
    os.close(end.pidfd)
    return None


def _share_ring(fork: Fork, pidfd: int, ring_fd: int) -> Uring | None:
    """The ring that was made for this process. Raises `RingUnshared`."""
    if not fork.ring_entries:
        return None
    try:
        return Uring.attach(copy_fd_of(pidfd, ring_fd), fork.ring_layout)
    except ProcessLookupError:
        return None  # killed before it began
    except OSError as error:
        raise RingUnshared(error.errno, error.strerror) from error
