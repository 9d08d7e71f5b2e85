"""Messages with descriptors over a pair of unix sockets, one whole message or none at a time.

Linux keeps the messages apart itself (SOCK_SEQPACKET). macOS has no such unix sockets, so the portable form
puts each message's length before it into a stream (SOCK_STREAM), with the descriptors at its first byte.
"""

import array
import errno
import fcntl
import socket
import struct
import termios
from collections.abc import Sequence

from ringblk.shm.platform.form import LINUX
from ringblk.shm.platform.socket_options import CLOSE_ON_EXEC, close_on_exec

_SO_NWRITE = 0x1024  # macOS, sys/socket.h: bytes that the other end has not read
_FD_BYTES = array.array("i").itemsize
_LENGTH = struct.Struct("=I")
_KIND = socket.SOCK_SEQPACKET if LINUX else socket.SOCK_STREAM


def message_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends, one for each process. Raises `OSError`."""
    return socket.socketpair(socket.AF_UNIX, _KIND)


def message_socket(fd: int) -> socket.socket:
    """The end that a process was given as a descriptor, without asking the kernel what it is."""
    return socket.socket(socket.AF_UNIX, _KIND, fileno=fd)


def new_message_socket() -> socket.socket:
    """One that is not connected. Raises `OSError`."""
    return socket.socket(socket.AF_UNIX, _KIND)


class MessageEnd:
    """One end. No call waits."""

    def __init__(self, end: socket.socket, fd_limit: int) -> None:
        """`fd_limit` is how many descriptors a message may bring; the kernel closes what is beyond."""
        self._socket = end
        self._ancillary_bytes = socket.CMSG_SPACE(fd_limit * _FD_BYTES) if fd_limit else 0
        self._unsent = b""  # of a message that was begun; its descriptors are sent
        self._part = bytearray()  # of a message that is coming in, its length included
        self._part_fds: list[int] = []

    def send(self, data: bytes, fds: Sequence[int]) -> bool:
        """Whether the message was taken. Raises `OSError`, `BlockingIOError` excepted."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        if LINUX:
            return self._send(data, rights) is not None
        if not self.flush():
            return False
        whole = _LENGTH.pack(len(data)) + data
        sent_bytes = self._send(whole, rights)
        self._unsent = b"" if sent_bytes is None else whole[sent_bytes:]
        return sent_bytes is not None

    def flush(self) -> bool:
        """Send the rest of a message that was begun; whether none is left. Raises `OSError`."""
        while self._unsent:
            sent_bytes = self._send(self._unsent, [])
            if sent_bytes is None:
                return False
            self._unsent = self._unsent[sent_bytes:]
        return True

    def _send(self, data: bytes, rights: list[tuple[int, int, "array.array[int]"]]) -> int | None:
        try:
            return self._socket.sendmsg([data], rights, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def receive(self, max_bytes: int) -> tuple[bytes, list[int]] | None:
        """The next message of up to so many bytes and its descriptors, the caller's; None: there is none now.

        No bytes: the other end is closed. Raises `OSError`.
        """
        if LINUX:
            return self._receive(max_bytes)
        while True:
            missing_bytes = self._missing_bytes(max_bytes)
            if missing_bytes == 0:
                data, fds = bytes(self._part[_LENGTH.size :]), self._part_fds
                self._part, self._part_fds = bytearray(), []
                return data, fds
            received = self._receive(missing_bytes)  # no more: the next message's descriptors are its own
            if received is None or not received[0]:
                return received
            self._part += received[0]
            self._part_fds += received[1]

    def _missing_bytes(self, max_bytes: int) -> int:
        if len(self._part) < _LENGTH.size:
            return _LENGTH.size - len(self._part)
        (length_bytes,) = _LENGTH.unpack_from(self._part)
        if length_bytes > max_bytes:
            raise OSError(errno.EMSGSIZE, "a message that is too long")
        return int(_LENGTH.size + length_bytes - len(self._part))

    def _receive(self, max_bytes: int) -> tuple[bytes, list[int]] | None:
        try:
            # Not socket.recv_fds: before Python 3.12 it ignores its flags.
            data, ancillary, _, _ = self._socket.recvmsg(
                max_bytes, self._ancillary_bytes, CLOSE_ON_EXEC | socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            return None
        fds = array.array("i")
        for level, kind, rights in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(rights[: len(rights) // _FD_BYTES * _FD_BYTES])
        close_on_exec(fds)
        return data, fds.tolist()

    @property
    def has_begun(self) -> bool:
        """Whether a message was sent in part."""
        return bool(self._unsent)

    @property
    def unread_bytes(self) -> int:
        """What the other end has not read."""
        unread_bytes = array.array("i", [0])
        try:
            fcntl.ioctl(self._socket, termios.TIOCOUTQ, unread_bytes)  # SIOCOUTQ, unix(7)
        except OSError:
            return self._socket.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)
        return unread_bytes[0]
