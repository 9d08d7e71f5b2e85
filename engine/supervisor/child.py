"""Forked child processes of the supervisor: started with few descriptors, watched by pidfd, ended with it."""

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, Generic, TypeVar

import msgspec

from ringblk.shm.sync.channel import Channel, ChannelClosed
from ringblk.shm.sync.process import crash_point, die_with_parent, ignore_signal, set_process_name
from ringblk.workers.sandbox.sandbox import report_refused

_log = logging.getLogger(__name__)
RETRY_S = 0.01
"""How often what a channel did not take is sent again: what was short need not be room in its socket."""
UNREAD_LIMIT = 32
"""Messages that a child may have unread before no more memory is added: each may hold a descriptor."""
_FD_FOLDER = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"

Received = TypeVar("Received")


class Child(Generic[Received]):
    """A running child: its process, and the supervisor's end of its channel."""

    def __init__(self, name: str, pid: int, channel: Channel[Received]) -> None:
        self.name = name
        self.pid = pid
        self.channel = channel
        self.pidfd = open_pidfd(pid)
        self.announce: Callable[[], None] = lambda: None
        """Makes the child look at its channel."""
        self.ended = asyncio.Event()
        """Set when it has ended, was reaped, and `on_exit` was called."""
        self._unread_count = 0
        self._retry: asyncio.TimerHandle | None = None

    def watch(
        self,
        on_exit: Callable[["Child[Received]", int], None],
        on_message: Callable[[Received], None] | None = None,
    ) -> None:
        """Call `on_exit(child, wait_status)` once the process has ended and was reaped.

        What it sends goes to `on_message`, all of it before `on_exit`.
        """
        loop = asyncio.get_running_loop()
        loop.add_reader(self.pidfd, self._reap, on_exit, on_message)
        if on_message is not None:
            loop.add_reader(self.channel.socket.fileno(), self._read, on_message)

    def _read(self, on_message: Callable[[Received], None]) -> None:
        try:
            while (received := self.channel.receive()) is not None:
                on_message(received[0])
        except ChannelClosed:
            asyncio.get_running_loop().remove_reader(self.channel.socket.fileno())
        except msgspec.DecodeError as error:
            _log.error("%s sends what is no message (%s): killing it", self.name, error)
            asyncio.get_running_loop().remove_reader(self.channel.socket.fileno())
            self.kill()

    def send(self, message: object, fds: Sequence[int] = ()) -> None:
        """Send a message; what its socket does not take now goes out when it does. Raises `ChannelClosed`.

        A child that cannot be told for want of descriptors is killed: its successor is told everything.
        """
        try:
            self.channel.send(message, fds)
        except OSError as error:
            _log.error("%s cannot be told of a change: %s; killing it", self.name, error.strerror or error)
            self.kill()
        self._unread_count += 1
        self._send_rest_later()

    def _send_rest(self) -> None:
        self._retry = None
        with contextlib.suppress(ChannelClosed):
            self.channel.flush()
            self.announce()
            self._send_rest_later()

    def _send_rest_later(self) -> None:
        if self.channel.has_unsent and self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._send_rest)

    @property
    def has_room(self) -> bool:
        """Whether it has read most of what it was sent; one that is busy may not for a while."""
        if self.channel.is_all_read:
            self._unread_count = 0
        return self._unread_count < UNREAD_LIMIT

    def nudge(self) -> None:
        """End a system call that it may be stuck in. Who is not ready for the signal ignores it."""
        signal.pidfd_send_signal(self.pidfd, signal.SIGURG)

    def kill(self) -> None:
        """End the process at once, if it has not ended. It is reaped where it is watched."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def _reap(
        self,
        on_exit: Callable[["Child[Received]", int], None],
        on_message: Callable[[Received], None] | None,
    ) -> None:
        _, status = os.waitpid(self.pid, 0)
        crash_point("supervisor: child reaped")
        if on_message is not None:
            self._read(on_message)
        loop = asyncio.get_running_loop()
        loop.remove_reader(self.pidfd)
        loop.remove_reader(self.channel.socket.fileno())
        if self._retry is not None:
            self._retry.cancel()
        os.close(self.pidfd)
        self.channel.close()
        on_exit(self, status)
        self.ended.set()


def open_pidfd(pid: int) -> int:
    """A descriptor to watch a child by. Raises `OSError`, with what to change where calls are refused."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOSYS):
            hint = "pidfd_open(2) is refused, by an old kernel or the seccomp filter of a container"
            raise OSError(error.errno, f"child processes cannot be watched: {hint}") from error
        raise


def was_own_fault(status: int) -> bool:
    """Whether a child ended by what it did, and was not killed from outside."""
    return not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL)


def describe_end(status: int) -> str:
    """What waitpid says of an end, in words."""
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSYS:
        return "killed by SIGSYS: it made a system call that the sandbox does not know"
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit status {os.waitstatus_to_exitcode(status)}"


def open_fds() -> set[int]:
    """The descriptors that this process has open."""
    return {int(name) for name in os.listdir(_FD_FOLDER) if _is_open(int(name))}


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False  # the descriptor of the listing itself
    return True


def fork_child(
    name: str,
    body: Callable[[Channel[Any]], None],
    received_type: Any,
    sent_type: Any,
    keep_fds: Iterable[int],
) -> Child[Any]:
    """Fork a child that runs `body` on its end of a channel and ends; `keep_fds` and its standard fds stay.

    `received_type` is what the supervisor receives from it, `sent_type` what it sends. Raises `OSError`; no
    child is left then.
    """
    our_end, their_end = Channel.socketpair()
    # Both are made before the fork: what a child writes to is its own copy of a page.
    ours: Channel[Any] = Channel(our_end, received_type, takes_fds=False)
    theirs: Channel[Any] = Channel(their_end, sent_type)
    parent_pid = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        pid = os.fork()
        if pid == 0:
            _run_child(name, body, theirs, parent_pid, {their_end.fileno(), *keep_fds})
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    crash_point("supervisor: child forked")
    try:
        return Child(name, pid, ours)
    except OSError:  # no pidfd, so nobody would see it end
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        ours.close()
        raise


def _run_child(
    name: str,
    body: Callable[[Channel[Any]], None],
    channel: Channel[Any],
    parent_pid: int,
    keep_fds: set[int],
) -> None:
    """The child's life. It never returns to the supervisor's code that was running at the fork."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)  # asyncio's: a signal here must not wake the supervisor
        # A terminal or service manager signals the whole group; the supervisor says when to end.
        ignore_signal(signal.SIGTERM)
        ignore_signal(signal.SIGINT)
        ignore_signal(signal.SIGHUP)
        gc.freeze()  # what was inherited is never collected here: its pages stay shared
        if not die_with_parent(parent_pid):
            os._exit(1)
        _close_other_fds(keep_fds)
        set_process_name(name)
        body(channel)
        status = 0
        report_refused(name)
    except BaseException:
        report_refused(name)  # before the traceback, for which Python looks at source files: that is no news
        _log.exception("%s ends with an error", name)
    finally:
        logging.shutdown()
        os._exit(status)


def _close_other_fds(keep_fds: set[int]) -> None:
    """Close every descriptor but these and the standard ones, gap by gap with one system call each."""
    kept = sorted({0, 1, 2} | keep_fds)
    for before, after in pairwise([*kept, os.sysconf("SC_OPEN_MAX")]):
        if before + 1 < after:
            os.closerange(before + 1, after)
