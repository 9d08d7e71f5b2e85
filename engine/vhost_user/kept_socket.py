"""The connection of a session that is kept: a message stays in it until that is in custody."""

import array
import contextlib
import fcntl
import socket
import termios
from collections.abc import Callable
from functools import partial

from ringblk.engine.vhost_user.descriptor_seal import look_ahead
from ringblk.engine.vhost_user.fd_set import FdSet
from ringblk.engine.vhost_user.message_socket import (
    ReceivedMessage,
    VhostUserSocket,
    whole_header,
    whole_payload,
)
from ringblk.engine.vhost_user.messages import HEADER_BYTES, BadMessage, Header
from ringblk.engine.vhost_user.peek import peek_parts
from ringblk.shm.platform.socket_options import look_from, looked_at_bytes

READ_BY_ANOTHER = "somebody else has read from the connection"


class KeptSocket(VhostUserSocket):
    """`receive` looks at the next message, `take` takes it out.

    Each look begins at the first byte that was not taken (SO_PEEK_OFF 0), whoever has looked ahead before.
    From the end of `receive` to that of `take` nobody else looks, so that the offset says how many bytes of
    the message are still to be taken, also to the process that goes on after this one.

    A message in so many pieces that they fill the socket's buffer, which has room for some 70, never becomes
    whole. Its front end waits, and has stalled (`stalled_s`). Those that there are send a message at once.
    """

    async def receive(self) -> ReceivedMessage | None:
        """Look at the next message, which stays; `data` is all of it, its fds are copies.

        None when the peer has closed the connection between two messages. Raises `BadMessage`.
        """
        while True:
            try:
                message = self._look()
            except BlockingIOError:
                await self._wait_arrival()  # of more: bytes that were looked at are there still
                continue
            self._owed_since_s = None
            return message

    def _look(self) -> ReceivedMessage | None:
        """Raises `BlockingIOError` while a part is missing; those that are there have been sealed."""
        header: Header | None = None
        with contextlib.suppress(BlockingIOError):
            look_ahead(self._socket, begin=True)
            header = whole_header(self._peek(HEADER_BYTES, self._peek_bytes))
        size_bytes = HEADER_BYTES + (header.payload_bytes if header else 0)
        fds: list[int] = []
        try:
            look_ahead(self._socket, begin=True)
            data = self._peek(size_bytes, partial(self._peek_parts, fds))
            if header is None:
                if whole_header(data) is None:
                    return None
                raise BlockingIOError  # the rest has come meanwhile, which is an event
            payload = whole_payload(header, data[HEADER_BYTES:])
        except BaseException:
            FdSet(fds).close()
            raise
        return ReceivedMessage(header, payload, FdSet(fds), data)

    def _peek(self, size_bytes: int, peek: Callable[[int], bytes]) -> bytes:
        """So many bytes, fewer only at the connection's end."""
        data = b""
        while len(data) < size_bytes:
            try:
                fragment = peek(size_bytes - len(data))
            except ConnectionResetError:
                break
            if not fragment:
                break
            data += fragment
            self._note_owed()
        return data

    def _peek_bytes(self, size_bytes: int) -> bytes:
        return self._socket.recv(size_bytes, socket.MSG_PEEK | socket.MSG_DONTWAIT)

    def _peek_parts(self, fds: list[int], size_bytes: int) -> bytes:
        """At most so many bytes; the fds of what they were sent with are added to `fds`."""
        fitting = peek_parts(self.fileno(), size_bytes)
        if fitting is None:
            return self._peek_beginning(fds, size_bytes)
        fragment, new_fds, is_cut = fitting
        fds += new_fds
        self._admit_fds(fds, len(new_fds), is_cut=is_cut)
        return fragment

    def _peek_beginning(self, fds: list[int], size_bytes: int) -> bytes:
        """The beginning of a part that goes on after so many bytes."""
        offset_bytes = looked_at_bytes(self._socket)
        unread_bytes = array.array("i", [0])
        fcntl.ioctl(self.fileno(), termios.FIONREAD, unread_bytes)
        found = peek_parts(self.fileno(), unread_bytes[0] - offset_bytes)
        if found is None:
            raise BadMessage(READ_BY_ANOTHER)
        with FdSet(found[1]) as found_fds:
            look_from(self._socket, offset_bytes)
            # The fds are those of the last part found. They are this one's if no part lies before that.
            if len(found_fds) and peek_parts(self.fileno(), len(found[0]) - 1) is None:
                fds += found_fds.take()
                self._admit_fds(fds, len(found[1]), is_cut=found[2])
        look_from(self._socket, offset_bytes + size_bytes)
        return found[0][:size_bytes]

    def take(self, message: ReceivedMessage) -> None:
        """Take a message out that was looked at. Raises `BadMessage`."""
        self._take(len(message.data))

    def take_rest(self) -> None:
        """Take out what is left of a message that a process before has begun to take. Raises `BadMessage`."""
        self._take(looked_at_bytes(self._socket))

    def _take(self, size_bytes: int) -> None:
        """The fds go with the bytes: the kernel closes those that nobody makes room for."""
        while size_bytes > 0:
            try:
                taken = self._socket.recv(size_bytes, socket.MSG_DONTWAIT)
            except BlockingIOError:
                taken = b""
            if not taken:
                raise BadMessage(READ_BY_ANOTHER)
            size_bytes -= len(taken)
