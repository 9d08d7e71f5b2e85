"""A client for the Network Block Device protocol, as much of it as copying an image through qemu-nbd needs.

Fixed newstyle handshake with NBD_OPT_GO, then simple replies only (github.com/NetworkBlockDevice/nbd,
doc/proto.md). Several requests may be under way; the server answers them in any order.
"""

import os
import socket
import struct

_NBD_MAGIC = 0x4E42444D41474943  # "NBDMAGIC"
_OPTION_MAGIC = 0x49484156454F5054  # "IHAVEOPT"
_OPTION_REPLY_MAGIC = 0x3E889045565A9
_REQUEST_MAGIC = 0x25609513
_SIMPLE_REPLY_MAGIC = 0x67446698
_FIXED_NEWSTYLE_AND_NO_ZEROES = 3
_OPT_GO = 7
_REP_ACK, _REP_INFO, _REP_ERROR_BIT = 1, 3, 1 << 31
_INFO_EXPORT = 0
CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH = 0, 1, 2, 3
CMD_WRITE_ZEROES = 6


class NbdError(Exception):
    """The server ended the connection or said something that is not NBD. Look at what it printed."""


class NbdClient:
    """A connection to an NBD server's default export. For one thread at a time."""

    def __init__(self, connection: socket.socket) -> None:
        """Take the connection over and shake hands. Raises NbdError."""
        self._socket = connection
        self._reads: dict[int, memoryview] = {}
        self._next_cookie = 0
        self.size_bytes = self._shake_hands()

    def send(self, command: int, offset_bytes: int, size_bytes: int, data: memoryview | None = None) -> int:
        """Send a request and return its cookie; `data` is where a read's answer goes, or what to write."""
        cookie = self._next_cookie
        self._next_cookie += 1
        header = struct.pack(">IHHQQI", _REQUEST_MAGIC, 0, command, cookie, offset_bytes, size_bytes)
        if command == CMD_READ:
            assert data is not None
            self._reads[cookie] = data[:size_bytes]
        try:
            self._socket.sendall(header)
            if command == CMD_WRITE:
                assert data is not None
                self._socket.sendall(data)
        except OSError as error:
            raise NbdError(f"the server is gone ({error.strerror or error})") from error
        return cookie

    def receive(self) -> int:
        """Wait for any answer, return its cookie. Raises the OSError that the server reports, or NbdError."""
        magic, error_number, cookie = struct.unpack(">IIQ", self._receive_bytes(16))
        if magic != _SIMPLE_REPLY_MAGIC:
            raise NbdError("an answer begins with the wrong number")
        target = self._reads.pop(cookie, None)
        if error_number:  # the protocol's error numbers are Linux's
            raise OSError(error_number, os.strerror(error_number))
        if target is not None:
            self._receive_into(target)
        return int(cookie)

    def close(self) -> None:
        """Say goodbye and close the connection."""
        try:
            self.send(CMD_DISC, 0, 0)
        except NbdError:
            pass  # gone already
        finally:
            self._socket.close()

    def _shake_hands(self) -> int:
        magic, option_magic, _ = struct.unpack(">QQH", self._receive_bytes(18))
        if magic != _NBD_MAGIC or option_magic != _OPTION_MAGIC:
            raise NbdError("the server does not speak NBD, newstyle")
        go = struct.pack(">IH", 0, 0)  # the default export's empty name, no information asked for
        self._socket.sendall(
            struct.pack(">I", _FIXED_NEWSTYLE_AND_NO_ZEROES)
            + struct.pack(">QII", _OPTION_MAGIC, _OPT_GO, len(go))
            + go
        )
        size_bytes = 0
        while True:
            magic, _, kind, length = struct.unpack(">QIII", self._receive_bytes(20))
            payload = self._receive_bytes(length)
            if magic != _OPTION_REPLY_MAGIC or kind & _REP_ERROR_BIT:
                raise NbdError(f"the server refuses its export: {payload.decode(errors='replace')}")
            if kind == _REP_INFO and struct.unpack_from(">H", payload)[0] == _INFO_EXPORT:
                (size_bytes,) = struct.unpack_from(">Q", payload, 2)
            if kind == _REP_ACK:
                return size_bytes

    def _receive_bytes(self, size_bytes: int) -> bytearray:
        data = bytearray(size_bytes)
        self._receive_into(memoryview(data))
        return data

    def _receive_into(self, target: memoryview) -> None:
        while target:
            try:
                received = self._socket.recv_into(target)
            except OSError as error:
                raise NbdError(f"the server is gone ({error.strerror or error})") from error
            if received == 0:
                raise NbdError("the server ended the connection")
            target = target[received:]
