"""How the bytes of a fuzz input become a stream of vhost-user messages and the fds that go along.

The first byte says how the stream begins and ends; then come messages, until the input ends. Bytes past the
end are zero, so every input means something.
"""

import enum
import os
import socket
import struct

import msgspec

from ringblk.engine.vhost_user.codes import FrontendRequest
from ringblk.engine.vhost_user.messages import encode_message

MESSAGE_LIMIT = 48
MEMORY_BYTES = 0x10000
UVA = 0x7F0000000000
REQUESTS = tuple(FrontendRequest)
MEMORY, EVENT, STREAM = 0, 1, 2  # kinds of fds: places in what `open_fd_kinds` gives
NUMBERS = (
    0,
    1,
    2,
    3,
    16,
    128,
    256,
    0x8000,
    0xFFFF,
    0x10000,
    0xFFFFFFFF,
    1 << 30,
    1 << 32,
    0xF129,
    1 << 63,
    -1,
)


class Begin(enum.IntFlag):
    """The first byte."""

    NEGOTIATED = 1  # features and protocol features are accepted already
    HANGS_UP = 2  # both directions are closed before the session looks


class Form(enum.IntFlag):
    """The second byte of each message: in which ways it is not what it should be."""

    NEED_REPLY = 1
    WRONG_FDS = 2  # a byte says how many, and the next of which kinds
    WRONG_SIZE = 4  # the header's size differs from the payload's
    WRONG_FLAGS = 8
    LATE_FDS = 16  # header first, fds with the payload
    RAW_PAYLOAD = 32
    RAW_REQUEST = 64
    CUT = 128  # the message ends early


class Part(msgspec.Struct, frozen=True):
    """What goes into one call of sendmsg: bytes, and the kinds of the fds."""

    data: bytes
    fd_kinds: tuple[int, ...] = ()


class SessionInput:
    """Reads one input."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0
        self.begin = Begin(self._number(1) & 3)

    def parts(self) -> list[Part]:
        """All that the front end sends."""
        parts: list[Part] = []
        for _ in range(MESSAGE_LIMIT):
            if self._place >= len(self._data):
                break
            parts += self._message()
        return [part for part in parts if part.data]

    def _number(self, size_bytes: int) -> int:
        taken = self._data[self._place : self._place + size_bytes]
        self._place += size_bytes
        return int.from_bytes(taken, "little")

    def _message(self) -> list[Part]:
        code, form = self._number(1), Form(self._number(1))
        request: int = code if Form.RAW_REQUEST in form else REQUESTS[code % len(REQUESTS)]
        own_kinds, payload = self._payload(request)
        if Form.RAW_PAYLOAD in form:
            payload = self._raw()
        kinds = self._fd_kinds() if Form.WRONG_FDS in form else own_kinds
        message = encode_message(request, payload, need_reply=Form.NEED_REPLY in form)
        if Form.WRONG_SIZE in form:
            message = (
                message[:8] + struct.pack("=I", (len(payload) + self._signed()) & 0xFFFFFFFF) + message[12:]
            )
        if Form.WRONG_FLAGS in form:
            message = message[:4] + struct.pack("=I", self._number(1)) + message[8:]
        if Form.CUT in form:
            message = message[: self._number(1)]
        if Form.LATE_FDS in form:
            return [Part(message[:12]), Part(message[12:], kinds)]
        return [Part(message, kinds)]

    def _raw(self) -> bytes:
        count = self._number(1)
        self._place += count
        return self._data[self._place - count : self._place]

    def _fd_kinds(self) -> tuple[int, ...]:
        return tuple(self._number(1) for _ in range(self._number(1) % 12))

    def _signed(self) -> int:
        return self._number(1) - 128

    def _value(self) -> int:
        """A 64-bit number: one of those that mean something here, or any."""
        code = self._number(1)
        if code < len(NUMBERS):
            return NUMBERS[code] & 0xFFFFFFFFFFFFFFFF
        return code if code < 0x80 else self._number(2) if code < 0xC0 else self._number(8)

    def _payload(self, request: int) -> tuple[tuple[int, ...], bytes]:
        """The fds that belong to the message, and its payload."""
        match request:
            case (
                FrontendRequest.SET_FEATURES
                | FrontendRequest.SET_PROTOCOL_FEATURES
                | FrontendRequest.SET_STATUS
            ):
                return (), struct.pack("=Q", self._value())
            case FrontendRequest.SET_MEM_TABLE:
                count = self._number(1) % 10
                return (MEMORY,) * count, struct.pack("=II", count, 0) + b"".join(
                    self._region() for _ in range(count)
                )
            case FrontendRequest.ADD_MEM_REG | FrontendRequest.REM_MEM_REG:
                return (MEMORY,) * (request == FrontendRequest.ADD_MEM_REG), bytes(8) + self._region()
            case (
                FrontendRequest.SET_VRING_NUM
                | FrontendRequest.SET_VRING_BASE
                | FrontendRequest.GET_VRING_BASE
                | FrontendRequest.SET_VRING_ENABLE
            ):
                return (), struct.pack("=II", self._number(1), self._value() & 0xFFFFFFFF)
            case FrontendRequest.SET_VRING_ADDR:
                return (), self._vring_address()
            case (
                FrontendRequest.SET_VRING_KICK
                | FrontendRequest.SET_VRING_CALL
                | FrontendRequest.SET_VRING_ERR
            ):
                value = self._number(2)
                return (EVENT,) * (not value & 0x100), struct.pack("=Q", value)
            case FrontendRequest.GET_CONFIG | FrontendRequest.SET_CONFIG:
                offset_bytes, size_bytes, flags = self._number(1), self._number(1) + 1, self._number(1)
                return (), struct.pack("=III", offset_bytes, size_bytes, flags) + bytes(size_bytes)
            case FrontendRequest.GET_INFLIGHT_FD | FrontendRequest.SET_INFLIGHT_FD:
                numbers = (self._value(), self._value(), self._number(1), self._value() & 0xFFFF)
                kinds = (MEMORY,) * (request == FrontendRequest.SET_INFLIGHT_FD)
                return kinds, struct.pack("=QQHH4x", *numbers)
            case FrontendRequest.SET_BACKEND_REQ_FD:
                return (STREAM,), b""
            case _:
                return (), b""

    def _region(self) -> bytes:
        """Mostly one of eight that lie side by side; otherwise any."""
        code = self._number(1)
        if code & 0x80:
            return struct.pack("=QQQQ", self._value(), self._value(), self._value(), self._value())
        index, offset_bytes = code & 7, (code >> 3) * 0x100
        return struct.pack("=QQQQ", index * 0x4000, 0x4000, UVA + index * 0x4000, offset_bytes)

    def _vring_address(self) -> bytes:
        """Mostly addresses in the first of those regions; otherwise any."""
        index, code = self._number(1), self._number(1)
        if code & 0x80:
            addresses = [self._value() for _ in range(4)]
            return struct.pack("=IIQQQQ", index, self._number(1), *addresses)
        uva = UVA + code * 0x200
        return struct.pack("=IIQQQQ", index, 0, uva, uva + 0x1000, uva + 0x800, 0)


def open_fd_kinds() -> list[int]:
    """The fds that messages carry, by kind: the caller's to close."""
    memory = os.memfd_create("memory")
    os.ftruncate(memory, MEMORY_BYTES)
    short = os.memfd_create("short")
    os.ftruncate(short, 100)
    stream, other_stream = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    datagram, other_datagram = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    read_end, write_end = os.pipe()
    kinds = [
        memory,
        os.eventfd(0, os.EFD_NONBLOCK),
        stream.detach(),
        short,
        datagram.detach(),
        read_end,
        write_end,
    ]
    kinds += [
        os.open("/", os.O_RDONLY),
        os.open("/dev/null", os.O_RDWR),
        os.open("/dev/null", os.O_RDONLY | os.O_PATH),
    ]
    other_stream.detach()
    other_datagram.detach()
    return kinds
