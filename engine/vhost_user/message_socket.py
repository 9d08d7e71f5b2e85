"""A vhost-user connection for asyncio: whole messages with the fds that came along.

A message is read by exactly its own bytes (header first, then payload), so that an fd, which the kernel hands
out with the bytes that it was sent with, always belongs to the message being read. Every fd received is owned
by an `FdSet` until somebody takes it: an error or a cancellation closes it and never loses it.
"""

import array
import asyncio
import contextlib
import os
import select
import socket
import time
from types import TracebackType

import msgspec

from ringblk.engine.base.printable_text import printable
from ringblk.engine.vhost_user.descriptor_seal import (
    has_hung_up,
    is_read_by_peer,
    look_ahead,
    received_fds,
    seal,
    seal_unread,
)
from ringblk.engine.vhost_user.messages import (
    HEADER_BYTES,
    MAX_FD_COUNT,
    BadMessage,
    Header,
    decode_header,
)

_FD_BYTES = array.array("i").itemsize
# The peer may hold the same socket and take its O_NONBLOCK away.
_SEND_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_RECEIVE_FLAGS = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
_EVENTFD = "anon_inode:[eventfd]"  # proc(5); a path of a file's own begins with a slash


class FdSet:
    """Fds that came with one message; whatever is not taken is closed at the end of the `with` block."""

    def __init__(self, fds: list[int]) -> None:
        self._fds = fds

    def __len__(self) -> int:
        return len(self._fds)

    def take(self) -> list[int]:
        """Hand over all fds: closing them is the caller's from now on."""
        fds, self._fds = self._fds, []
        return fds

    def eventfd_fault(self) -> str | None:
        """What one of them is that is no eventfd, in words; None where all are."""
        for fd in self._fds:
            kind = os.readlink(f"/proc/self/fd/{fd}")
            if kind != _EVENTFD:
                return f"no eventfd, but {printable(kind.partition(':')[0])}"
        return None

    def close(self) -> None:
        """Close what was not taken. May be called again."""
        for fd in self.take():
            os.close(fd)

    def __enter__(self) -> "FdSet":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ReceivedMessage(msgspec.Struct, frozen=True):
    """One message as it came in. Use `with message.fds:` around whatever handles it."""

    header: Header
    payload: bytes
    fds: FdSet


class VhostUserSocket:
    """Sends and receives messages over a connected unix stream socket, which it owns from then on.

    One task receives at a time and one sends at a time.
    """

    def __init__(self, connected_socket: socket.socket) -> None:
        connected_socket.setblocking(False)
        self._socket = connected_socket
        self._owed_since_s: float | None = time.monotonic()

    @property
    def stalled_s(self) -> float:
        """For how long the peer has owed its first message, the rest of one, or the reading of ours."""
        return 0.0 if self._owed_since_s is None else time.monotonic() - self._owed_since_s

    def close(self) -> None:
        """Close the connection. May be called again."""
        self._socket.close()

    def shut_down(self) -> None:
        """End the connection for both sides; who receives or sends finds it ended."""
        with contextlib.suppress(OSError):  # the peer has done so already
            self._socket.shutdown(socket.SHUT_RDWR)

    @property
    def has_hung_up(self) -> bool:
        """Whether the peer, or this end, has closed the connection."""
        if self._socket.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(self._socket, 0)  # a hang-up is always told
        return bool(poll.poll(0))

    async def wait_hang_up(self) -> None:
        """Return once the peer has closed its end, whatever may still wait to be read."""
        # "Readable" cannot tell a hang-up while unread messages wait; an epoll set for nothing else can.
        with select.epoll() as poll:
            poll.register(self._socket, select.EPOLLHUP)
            await wait_readable(poll.fileno())

    async def receive(self) -> ReceivedMessage | None:
        """The next message, or None when the peer has closed the connection between two messages.

        Raises `BadMessage` for a header that no message has, more than `MAX_FD_COUNT` fds, or an end in the
        middle of a message.
        """
        fds: list[int] = []
        try:
            header_data = await self._receive_exactly(HEADER_BYTES, fds)
            if not header_data:
                if fds:
                    raise BadMessage("fds without a message")
                return None
            if len(header_data) < HEADER_BYTES:
                raise BadMessage(f"connection ended after {len(header_data)} bytes of a header")
            header = decode_header(header_data)
            payload = await self._receive_exactly(header.payload_bytes, fds)
            if len(payload) < header.payload_bytes:
                raise BadMessage(
                    f"{header.name}: connection ended after {len(payload)} of {header.payload_bytes} bytes"
                )
        except BaseException:
            FdSet(fds).close()
            raise
        self._owed_since_s = None
        return ReceivedMessage(header, payload, FdSet(fds))

    async def _receive_exactly(self, size_bytes: int, fds: list[int]) -> bytes:
        """Up to `size_bytes` bytes, fewer only at the connection's end; their fds are added to `fds`."""
        data = bytearray()
        while len(data) < size_bytes:
            try:
                fragment = self._receive_fragment(size_bytes - len(data), fds)
            except BlockingIOError:
                await wait_readable(self._socket.fileno())
                continue
            except ConnectionResetError:
                break
            if not fragment:
                break
            data += fragment
            self._note_owed()
        return bytes(data)

    def _receive_fragment(self, size_bytes: int, fds: list[int]) -> bytes:
        fragment, ancillary, flags, _ = self._socket.recvmsg(
            size_bytes, socket.CMSG_SPACE(MAX_FD_COUNT * _FD_BYTES), _RECEIVE_FLAGS
        )
        former_count = len(fds)
        fds.extend(received_fds(ancillary))
        if flags & socket.MSG_CTRUNC and len(fds) - former_count < MAX_FD_COUNT:
            raise BadMessage("its fds cannot be taken: too many open files")  # recvmsg(2), unix(7)
        if flags & socket.MSG_CTRUNC or len(fds) > MAX_FD_COUNT:
            raise BadMessage(f"more than {MAX_FD_COUNT} fds with one message")
        sealed = [seal(fd) for fd in fds[former_count:]]
        if any(sealed):
            self._check_read_by_peer()
        return fragment

    def _check_read_by_peer(self) -> None:
        """Raise for a peer that has handed over its own end, which would then never be seen to close."""
        if not is_read_by_peer(self._socket) and not has_hung_up(self._socket):
            raise BadMessage("its own end of the connection is handed over")

    async def _wait_writable(self) -> None:
        """Return once the peer has read; what it sends meanwhile is kept from holding its own end open."""
        with select.epoll() as poll:
            poll.register(self._socket, select.EPOLLOUT | select.EPOLLIN | select.EPOLLET)
            while True:
                await wait_readable(poll.fileno())
                if any(events & select.EPOLLOUT for _, events in poll.poll(0)):
                    return
                look_ahead(self._socket, begin=True)
                try:
                    if seal_unread(self._socket):
                        self._check_read_by_peer()
                finally:
                    look_ahead(self._socket, begin=False)

    async def send(self, message: bytes, fds: tuple[int, ...] = ()) -> None:
        """Send one encoded message; the fds go with its first byte and stay the caller's.

        Raises `ConnectionError` (`BrokenPipeError`, `ConnectionResetError`) when the peer is gone.
        """
        rest = memoryview(message)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        while rest:
            try:
                sent_bytes = self._socket.sendmsg([rest], ancillary, _SEND_FLAGS)
            except BlockingIOError:
                self._note_owed()
                await self._wait_writable()
                continue
            rest, ancillary = rest[sent_bytes:], []
        self._owed_since_s = None

    def _note_owed(self) -> None:
        if self._owed_since_s is None:
            self._owed_since_s = time.monotonic()


async def wait_readable(fd: int) -> None:
    """Return once the descriptor is readable. One task waits for a descriptor at a time."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, _set_ready, ready)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


def _set_ready(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)
