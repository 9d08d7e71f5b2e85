"""Messages with descriptors between the processes of one engine.

A channel is one end of a socketpair that keeps message boundaries. Messages are msgspec structs of a tagged
union; descriptors travel beside them and are the receiver's to close. The sender never waits: what the
socket does not take at once is kept and goes out with the next `flush`.
"""

import contextlib
import errno
import functools
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec

from ringblk.shm.platform.message_end import MessageEnd, message_pair

MAX_MESSAGE_BYTES = 131072
"""The longest is the state of a session with as many regions and queues as there can be (`KeptDrive`)."""
MAX_FDS = 253
"""Linux's limit for one message (SCM_MAX_FD)."""

_NO_ROOM_NOW = (errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM)
"""Too many descriptors of this user are on their way (unix(7)), or the kernel has no memory: both pass."""

Received = TypeVar("Received")
Item = TypeVar("Item")

encode_message = msgspec.msgpack.Encoder().encode


@functools.cache
def message_decoder(received_type: Any) -> msgspec.msgpack.Decoder[Any]:
    """What decodes messages of this type; one for all channels, as it is most of a megabyte."""
    return msgspec.msgpack.Decoder(received_type)


class ChannelClosed(Exception):  # noqa: N818
    """The process at the other end is gone. A child should end; the supervisor learns how from its pidfd."""


class Channel(Generic[Received]):
    """One end. `received_type` is the tagged union of what comes in.

    Descriptors that come to one that takes none are closed by the kernel (recvmsg(2), MSG_CTRUNC).
    """

    def __init__(self, end: socket.socket, received_type: Any, *, takes_fds: bool = True) -> None:
        self.socket = end
        self._end = MessageEnd(end, MAX_FDS if takes_fds else 0)
        self._decoder = message_decoder(received_type)
        self._unsent: deque[tuple[bytes, list[int]]] = deque()

    @staticmethod
    def socketpair() -> tuple[socket.socket, socket.socket]:
        """Two connected ends, one for each process."""
        return message_pair()

    def send(self, message: object, fds: Sequence[int] = ()) -> None:
        """Send a message and copies of `fds`, which stay the caller's.

        Raises `ChannelClosed`, and `OSError` where it has to wait and there are no descriptors for copies.
        """
        data = encode_message(message)
        if not self._unsent and self._send_now(data, fds):
            return
        self._unsent.append((data, copy_fds(fds)))

    @property
    def has_unsent(self) -> bool:
        """Whether messages wait for room in the socket."""
        return bool(self._unsent) or self._end.has_begun

    @property
    def is_all_read(self) -> bool:
        """Whether the other end has read everything."""
        return not self.has_unsent and self._end.unread_bytes == 0

    def flush(self) -> None:
        """Send what the socket takes now. Raises `ChannelClosed`."""
        while self._unsent:
            data, fds = self._unsent[0]
            if not self._send_now(data, fds):
                return
            self._unsent.popleft()
            _close_all(fds)
        self._send_now(None)

    def _send_now(self, data: bytes | None, fds: Sequence[int] = ()) -> bool:
        """Whether the socket has taken it; None: the rest of one before. Raises `ChannelClosed`."""
        try:
            return self._end.flush() if data is None else self._end.send(data, fds)
        except OSError as error:
            if error.errno in _NO_ROOM_NOW:
                return False
            raise ChannelClosed(str(error)) from error

    def receive(self) -> tuple[Received, list[int]] | None:
        """The next message and its descriptors; None when there is none now.

        Raises `ChannelClosed`, and `msgspec.DecodeError` for what is no message of this channel.
        """
        try:
            received = self._end.receive(MAX_MESSAGE_BYTES)
        except OSError as error:
            raise ChannelClosed(str(error)) from error
        if received is None:
            return None
        data, fds = received
        if not data:
            raise ChannelClosed("the other end is closed")
        return self._decoder.decode(data), fds

    def close(self) -> None:
        """Close this end; what was not sent is dropped."""
        while self._unsent:
            _close_all(self._unsent.popleft()[1])
        self.socket.close()


def in_messages(items: Sequence[Item]) -> list[Sequence[Item]]:
    """As many of these in each part as one message has room for fds."""
    return [items[start : start + MAX_FDS] for start in range(0, len(items), MAX_FDS)]


def copy_fds(fds: Sequence[int]) -> list[int]:
    """Copies of all of them, or of none. Raises `OSError`."""
    copies: list[int] = []
    try:
        for fd in fds:
            copies.append(os.dup(fd))
    except OSError:
        _close_all(copies)
        raise
    return copies


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
