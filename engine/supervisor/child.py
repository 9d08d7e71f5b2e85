"""Child processes of the supervisor: started with few descriptors, told, watched by pidfd, ended with it."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Collection, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from ringblk.engine.supervisor.process_parent import ProcessParent, StartedProcess
from ringblk.engine.zygote.messages import Fork
from ringblk.shm.platform.process import signal_process
from ringblk.shm.sync.channel import Channel, ChannelClosed
from ringblk.shm.sync.process import crash_point
from ringblk.workers.uring.ring import Uring

_log = logging.getLogger(__name__)
RETRY_S = 0.01
"""How often what a channel did not take is sent again: what was short need not be room in its socket."""
UNREAD_LIMIT = 32
"""Messages that a child may have unread before no more memory is added: each may hold a descriptor."""

Received = TypeVar("Received")


class Child(Generic[Received]):
    """A running child: its process, and the supervisor's end of its channel."""

    def __init__(self, name: str, process: StartedProcess, channel: Channel[Received]) -> None:
        self.name = name
        self.pid = process.pid
        self.channel = channel
        self.pidfd = process.pidfd
        self.ring_fd = process.ring_fd
        self._process = process
        self.announce: Callable[[], None] = lambda: None
        """Makes the child look at its channel."""
        self.ended = asyncio.Event()
        """Set when it has ended, was reaped, and `on_exit` was called."""
        self._was_told = False
        self._unread_count = 0
        self._retry: asyncio.TimerHandle | None = None

    def watch(
        self,
        on_exit: Callable[["Child[Received]", int | None], None],
        on_message: Callable[[Received], None] | None = None,
    ) -> None:
        """Call `on_exit(child, wait_status)` once it has ended and was reaped; None: nobody knows how.

        What it sends goes to `on_message`, all of it before `on_exit`.
        """
        loop = asyncio.get_running_loop()
        loop.add_reader(self.pidfd, self._see_end, on_exit, on_message)
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
        self._was_told = True
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
        signal_process(self.pidfd, self.pid, signal.SIGURG)

    def take_uring(self) -> Uring | None:
        """Its io_uring, for the caller to keep (`StartedProcess.uring`)."""
        uring, self._process.uring = self._process.uring, None
        return uring

    def forget_ring(self) -> None:
        """As `StartedProcess` has it."""
        self._process.forget_ring()

    def stop(self, message: object) -> None:
        """Ask it to end with this message; end it if it still waits for its first. Raises `ChannelClosed`."""
        if self._process.waits_for_message and not self._was_told:
            self.kill()
        else:
            self.send(message)

    def kill(self) -> None:
        """End the process at once, if it has not ended. It is reaped where it is watched."""
        with contextlib.suppress(ProcessLookupError):
            signal_process(self.pidfd, self.pid, signal.SIGKILL)

    def _see_end(
        self,
        on_exit: Callable[["Child[Received]", int | None], None],
        on_message: Callable[[Received], None] | None,
    ) -> None:
        """It is no more: its descriptors are closed, and no thread of it is in a system call."""
        asyncio.get_running_loop().remove_reader(self.pidfd)
        self._process.when_reaped(lambda status: self._close(status, on_exit, on_message))

    def _close(
        self,
        status: int | None,
        on_exit: Callable[["Child[Received]", int | None], None],
        on_message: Callable[[Received], None] | None,
    ) -> None:
        crash_point("supervisor: child reaped")
        if on_message is not None:
            self._read(on_message)
        asyncio.get_running_loop().remove_reader(self.channel.socket.fileno())
        if self._retry is not None:
            self._retry.cancel()
        os.close(self.pidfd)
        # Whoever else has this end: what its io_uring has waited for there is over.
        with contextlib.suppress(OSError):
            self.channel.socket.shutdown(socket.SHUT_RDWR)
        self.channel.close()
        on_exit(self, status)
        self.ended.set()


def was_own_fault(status: int | None) -> bool:
    """Whether a child ended by what it did, and was not killed from outside, or with who had forked it."""
    return status is not None and not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL)


def describe_end(status: int | None) -> str:
    """What waitpid says of an end, in words."""
    if status is None:
        return "nobody can say how"
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSYS:
        return "killed by SIGSYS: it made a system call that the sandbox does not know"
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit status {os.waitstatus_to_exitcode(status)}"


def start_child(
    parent: ProcessParent, fork: Fork, fds: Sequence[int], received_type: Any, kept_fds: Collection[int]
) -> Child[Any]:
    """Have `parent` fork a child with a channel and these descriptors (of `fork.fd_names`, of the storage).

    `received_type` is what the supervisor receives from it. Raises `OSError`; no child is left then.
    """
    our_end, their_end = Channel.socketpair()
    ours: Channel[Any] = Channel(our_end, received_type, takes_fds=False)
    try:
        process = parent.fork(fork, [their_end.fileno(), *fds], kept_fds)
    except OSError:
        ours.close()
        raise
    finally:
        their_end.close()
    crash_point("supervisor: child forked")
    return Child(fork.process_name, process, ours)
