"""A vhost-user connection for asyncio: whole messages with the fds that came along.

A message is read by exactly its own bytes (header first, then payload), so that an fd, which the kernel hands
out with the bytes that it was sent with, always belongs to the message being read. Every fd received is owned
by an `FdSet` until somebody takes it: an error or a cancellation closes it and never loses it.
"""

import array
import asyncio
import contextlib
import select
import socket
import time
from collections.abc import Callable

import msgspec

from ringblk.engine.vhost_user.arrivals import Arrivals
from ringblk.engine.vhost_user.descriptor_seal import (
    has_hung_up,
    is_read_by_peer,
    look_ahead,
    received_fds,
    seal,
    seal_unread,
)
from ringblk.engine.vhost_user.fd_set import FdSet
from ringblk.engine.vhost_user.messages import (
    HEADER_BYTES,
    MAX_FD_COUNT,
    BadMessage,
    Header,
    decode_header,
)
from ringblk.shm.platform.news_set import NewsSet
from ringblk.shm.platform.socket_options import CLOSE_ON_EXEC, NO_SIGNAL, close_on_exec

_FD_BYTES = array.array("i").itemsize
# The peer may hold the same socket and take its O_NONBLOCK away.
_SEND_FLAGS = socket.MSG_DONTWAIT | NO_SIGNAL
_RECEIVE_FLAGS = socket.MSG_DONTWAIT | CLOSE_ON_EXEC


class ReceivedMessage(msgspec.Struct, frozen=True):
    """One message as it came in. Use `with message.fds:` around whatever handles it."""

    header: Header
    payload: bytes
    fds: FdSet
    data: bytes = b""
    """All of its bytes, where they are still to be taken from the connection (`KeptSocket`)."""


SendNow = Callable[[memoryview, tuple[int, ...]], int]
"""Sends what the socket takes now, and gives back how many bytes that was. Raises `OSError`."""


class VhostUserSocket:
    """Sends and receives messages over a connected unix stream socket, which it owns from then on.

    One task receives at a time and one sends at a time.
    """

    def __init__(self, connected_socket: socket.socket) -> None:
        connected_socket.setblocking(False)
        self._socket = connected_socket
        self._owed_since_s: float | None = time.monotonic()
        self._arrivals: Arrivals | None = None
        self.has_answers = False
        """Whether a socket that is handed over may be one that the peer answers on (`seal`).

        A peer that hands over the other end of this connection in an answer is not seen to go. That costs its
        own drive alone, so no other device has it.
        """

    def fileno(self) -> int:
        """Its descriptor, which stays its own."""
        return self._socket.fileno()

    def owes_nothing(self) -> None:
        """The peer has sent its first message."""
        self._owed_since_s = None

    @property
    def stalled_s(self) -> float:
        """For how long the peer has owed its first message, the rest of one, or the reading of ours."""
        return 0.0 if self._owed_since_s is None else time.monotonic() - self._owed_since_s

    def close(self) -> None:
        """Close the connection. May be called again."""
        if self._arrivals is not None:
            self._arrivals.close()
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
        # "Readable" cannot tell a hang-up while unread messages wait; a set for nothing else can.
        with NewsSet() as news:
            news.add_hang_up(self._socket.fileno())
            await wait_readable(news.fileno())
            while not any(each.has_hung_up for each in news.look()):
                await wait_readable(news.fileno())

    def take(self, message: ReceivedMessage) -> None:
        """Have a message out of the connection, which it is in this one since it was received."""

    def take_rest(self) -> None:
        """Have the rest of a message out that a process before was taking: here there is none."""

    async def receive(self) -> ReceivedMessage | None:
        """The next message, or None when the peer has closed the connection between two messages.

        Raises `BadMessage` for a header that no message has, more than `MAX_FD_COUNT` fds, or an end in the
        middle of a message.
        """
        fds: list[int] = []
        try:
            header = whole_header(await self._receive_exactly(HEADER_BYTES, fds))
            if header is None:
                if fds:
                    raise BadMessage("fds without a message")
                return None
            payload = whole_payload(header, await self._receive_exactly(header.payload_bytes, fds))
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
                await self._wait_arrival()
                continue
            except ConnectionResetError:
                break
            if not fragment:
                break
            data += fragment
            self._note_owed()
        return bytes(data)

    async def _wait_arrival(self) -> None:
        """Return once more has come, or may have since the last time."""
        if self._arrivals is None:
            self._arrivals = Arrivals(self._socket.fileno())
        await self._arrivals.wait()

    def _receive_fragment(self, size_bytes: int, fds: list[int]) -> bytes:
        fragment, ancillary, flags, _ = self._socket.recvmsg(
            size_bytes, socket.CMSG_SPACE(MAX_FD_COUNT * _FD_BYTES), _RECEIVE_FLAGS
        )
        new_fds = received_fds(ancillary)
        close_on_exec(new_fds)
        fds += new_fds
        self._admit_fds(fds, len(new_fds), is_cut=bool(flags & socket.MSG_CTRUNC))
        return fragment

    def _admit_fds(self, fds: list[int], new_count: int, *, is_cut: bool) -> None:
        """Seal those that have come with a message; `is_cut`: some are missing. Raises `BadMessage`."""
        if is_cut and new_count < MAX_FD_COUNT:
            raise BadMessage("its fds cannot be taken: too many open files")  # recvmsg(2), unix(7)
        if is_cut or len(fds) > MAX_FD_COUNT:
            raise BadMessage(f"more than {MAX_FD_COUNT} fds with one message")
        sealed = [seal(fd, has_answers=self.has_answers) for fd in fds[len(fds) - new_count :]]
        if any(sealed):
            self._check_read_by_peer()

    def _check_read_by_peer(self) -> None:
        """Raise for a peer that has handed over its own end, which would then never be seen to close."""
        if not is_read_by_peer(self._socket) and not has_hung_up(self._socket):
            raise BadMessage("its own end of the connection is handed over")

    async def _wait_writable(self) -> None:
        """Return once the peer has read; what it sends meanwhile is kept from holding its own end open."""
        with NewsSet() as news:
            news.add(self._socket.fileno(), with_writable=True)
            while True:
                await wait_readable(news.fileno())
                if any(each.is_writable for each in news.look()):
                    return
                self._seal_unread()

    def _seal_unread(self) -> None:
        look_ahead(self._socket, begin=True)
        try:
            if seal_unread(self._socket, has_answers=self.has_answers):
                self._check_read_by_peer()
        finally:
            look_ahead(self._socket, begin=False)

    async def send(self, message: bytes, fds: tuple[int, ...] = (), send_now: SendNow | None = None) -> None:
        """Send one encoded message; the fds go with its first byte and stay the caller's.

        `send_now` takes the place of sendmsg(2). Raises `ConnectionError` (`BrokenPipeError`,
        `ConnectionResetError`) when the peer is gone.
        """
        send_now = send_now or self._send_now
        rest = memoryview(message)
        while rest:
            try:
                sent_bytes = send_now(rest, fds)
            except BlockingIOError:
                self._note_owed()
                await self._wait_writable()
                continue
            rest, fds = rest[sent_bytes:], ()
        self._owed_since_s = None

    def _send_now(self, data: memoryview, fds: tuple[int, ...]) -> int:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        return self._socket.sendmsg([data], ancillary, _SEND_FLAGS)

    def _note_owed(self) -> None:
        if self._owed_since_s is None:
            self._owed_since_s = time.monotonic()


def whole_header(data: bytes) -> Header | None:
    """The header that the connection gave before its end; None for nothing. Raises `BadMessage`."""
    if data and len(data) < HEADER_BYTES:
        raise BadMessage(f"connection ended after {len(data)} bytes of a header")
    return decode_header(data) if data else None


def whole_payload(header: Header, payload: bytes) -> bytes:
    """The payload that the connection gave before its end. Raises `BadMessage` where it is cut off."""
    if len(payload) < header.payload_bytes:
        raise BadMessage(
            f"{header.name}: connection ended after {len(payload)} of {header.payload_bytes} bytes"
        )
    return payload


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
