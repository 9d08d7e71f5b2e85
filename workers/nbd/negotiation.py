"""What client and server say to one another before the first request, where it is encrypted (doc/proto.md).

A conversation is a generator: it yields how many bytes it waits for, or `START_TLS`, and says what it has to
by `say`. It knows no socket.
"""

import os
import struct
from collections.abc import Callable, Generator
from typing import NoReturn

from ringblk.workers.nbd.export import ExportFound

Conversation = Generator[int, bytes, ExportFound]
START_TLS = -1
"""Yielded in place of a number: from here on all is encrypted."""
MAXIMUM_BYTES = 1 << 25
"""Of a request with data, where the server says nothing."""

_NBD_MAGIC, _OPTION_MAGIC, _OPTION_REPLY_MAGIC = b"NBDMAGIC", 0x49484156454F5054, 0x3E889045565A9
_FIXED_NEWSTYLE = 1
_OPT_START_TLS, _OPT_GO = 5, 7
_REP_ACK, _REP_INFO, _REP_ERROR_BIT = 1, 3, 1 << 31
_ERR_UNSUPPORTED, _ERR_POLICY, _ERR_UNKNOWN = (_REP_ERROR_BIT + number for number in (1, 2, 6))
_INFO_EXPORT, _INFO_BLOCK_SIZE = 0, 3
_LONGEST_REPLY_BYTES = 1 << 16
_READ, _DISCONNECT = 0, 2
_REQUEST = struct.Struct(">IHHQQI")
_REQUEST_MAGIC, _SIMPLE_REPLY_MAGIC = 0x25609513, 0x67446698
_HAS_FLAGS, _IS_READ_ONLY, _CAN_FLUSH, _CAN_FUA = 1, 1 << 1, 1 << 2, 1 << 3
_CAN_TRIM, _CAN_ZERO, _CAN_MULTI = 1 << 5, 1 << 6, 1 << 8


class NotServed(Exception):  # noqa: N818
    """The server does not give what was asked for. The message is for people."""


def negotiate(export_name: bytes, say: Callable[[bytes], None], *, encrypts: bool = True) -> Conversation:
    """Up to the first request: encryption first, then the export. Structured replies are not asked for:
    without them each answer has a length that is known before (`record_keeper.pyx`). Raises `NotServed`.
    """
    magic, option_magic, flags = struct.unpack(">8sQH", (yield 18))
    if magic != _NBD_MAGIC or option_magic != _OPTION_MAGIC or not flags & _FIXED_NEWSTYLE:
        raise NotServed("does not speak NBD as it is spoken now (fixed newstyle)")
    say(struct.pack(">I", flags & 3))
    if encrypts:
        yield from _start_tls(say)
    go = struct.pack(">I", len(export_name)) + export_name + struct.pack(">HH", 1, _INFO_BLOCK_SIZE)
    say(_option(_OPT_GO, go))
    size_bytes, flags, sizes = -1, 0, (1, 0, MAXIMUM_BYTES)
    while True:
        kind, data = yield from _reply(_OPT_GO)
        if kind == _REP_INFO and len(data) == 12 and data[:2] == struct.pack(">H", _INFO_EXPORT):
            size_bytes, flags = struct.unpack(">QH", data[2:])
        elif kind == _REP_INFO and len(data) == 14 and data[:2] == struct.pack(">H", _INFO_BLOCK_SIZE):
            sizes = struct.unpack(">III", data[2:])
        elif kind == _REP_ACK and size_bytes >= 0:
            return _found(size_bytes, flags, sizes)
        elif kind == _ERR_UNKNOWN:
            raise NotServed("the server has no such export")
        elif kind != _REP_INFO:
            _refuse("the export", data)


def _start_tls(say: Callable[[bytes], None]) -> Generator[int, bytes, None]:
    say(_option(_OPT_START_TLS))
    kind, text = yield from _reply(_OPT_START_TLS)
    if kind in (_ERR_UNSUPPORTED, _ERR_POLICY):
        raise NotServed("the server does not offer TLS")
    if kind != _REP_ACK:
        _refuse("TLS", text)
    yield START_TLS


def read_once(
    export_name: bytes, say: Callable[[bytes], None], offset_bytes: int, target: bytearray
) -> Conversation:
    """The same, and one read that fills `target`. Raises `NotServed`, and the `OSError` that it ends with."""
    found = yield from negotiate(export_name, say)
    say(_REQUEST.pack(_REQUEST_MAGIC, 0, _READ, 0, offset_bytes, len(target)))
    magic, error_number, _ = struct.unpack(">IIQ", (yield 16))
    if magic != _SIMPLE_REPLY_MAGIC:
        raise NotServed("the server answers with what is no NBD")
    if error_number:
        raise OSError(error_number, os.strerror(error_number))
    target[:] = yield len(target)
    return found


def farewell() -> bytes:
    """What ends a connection."""
    return _REQUEST.pack(_REQUEST_MAGIC, 0, _DISCONNECT, 0, 0, 0)


def _option(option: int, payload: bytes = b"") -> bytes:
    return struct.pack(">QII", _OPTION_MAGIC, option, len(payload)) + payload


def _reply(option: int) -> Generator[int, bytes, tuple[int, bytes]]:
    magic, to, kind, length = struct.unpack(">QIII", (yield 20))
    if magic != _OPTION_REPLY_MAGIC or to != option or length > _LONGEST_REPLY_BYTES:
        raise NotServed("the server answers with what is no NBD")
    return kind, (yield length) if length else b""


def _refuse(what: str, text: bytes) -> NoReturn:
    said = text.decode(errors="replace").strip()
    raise NotServed(f"the server refuses {what}{': ' if said else ''}{said}")


def _found(size_bytes: int, flags: int, sizes: tuple[int, ...]) -> ExportFound:
    minimum_bytes, preferred_bytes, maximum_bytes = sizes
    has = flags if flags & _HAS_FLAGS else 0
    return ExportFound(
        size_bytes=size_bytes,
        minimum_bytes=max(minimum_bytes, 1),
        preferred_bytes=preferred_bytes,
        maximum_bytes=min(maximum_bytes, MAXIMUM_BYTES) or MAXIMUM_BYTES,
        is_read_only=bool(has & _IS_READ_ONLY),
        can_flush=bool(has & _CAN_FLUSH),
        can_fua=bool(has & _CAN_FUA),
        can_trim=bool(has & _CAN_TRIM),
        can_zero=bool(has & _CAN_ZERO),
        can_multi_conn=bool(has & _CAN_MULTI),
    )
