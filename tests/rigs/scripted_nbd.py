"""An NBD server in Python whose every answer a test decides on: late, in pieces, out of order, or wrong."""

import contextlib
import os
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import msgspec

READ, WRITE, DISCONNECT, FLUSH, TRIM, ZEROES = 0, 1, 2, 3, 4, 6
HAS_FLAGS, CAN_FLUSH, CAN_FUA, CAN_TRIM, CAN_ZERO, CAN_MULTI = 1, 1 << 2, 1 << 3, 1 << 5, 1 << 6, 1 << 8
ALL_FLAGS = HAS_FLAGS | CAN_FLUSH | CAN_FUA | CAN_TRIM | CAN_ZERO
FUA = 1
_OPT_ABORT, _OPT_START_TLS, _OPT_GO, _OPT_STRUCTURED = 2, 5, 7, 8
_REP_ACK, _REP_INFO, _REP_UNSUPPORTED = 1, 3, (1 << 31) + 1
_OPTION_MAGIC, _OPTION_REPLY_MAGIC = 0x49484156454F5054, 0x3E889045565A9
_REQUEST = struct.Struct(">IHHQQI")
DONE, NONE, OFFSET_DATA, OFFSET_HOLE, ERROR = 1, 0, 1, 2, (1 << 15) + 1


class NbdRequest(msgspec.Struct):
    """A request that has come."""

    connection: int
    """Which one, from 0."""
    flags: int
    command: int
    cookie: int
    offset_bytes: int
    length_bytes: int
    data: bytes


def simple(cookie: int, error: int = 0, data: bytes = b"") -> bytes:
    """A simple reply."""
    return struct.pack(">IIQ", 0x67446698, error, cookie) + data


def chunk(cookie: int, kind: int, payload: bytes = b"", *, is_last: bool = True) -> bytes:
    """A chunk of a structured reply."""
    return struct.pack(">IHHQI", 0x668E33EF, DONE if is_last else 0, kind, cookie, len(payload)) + payload


class ScriptedNbd:
    """Serves `disk` on a unix socket; `answer(request)` gives what is sent for it, or None for the usual.

    It runs in a thread of the connection that the request came by, so it may wait.
    """

    def __init__(
        self,
        folder: Path,
        size_bytes: int = 1 << 20,
        flags: int = ALL_FLAGS,
        answer: Callable[[NbdRequest], bytes | None] = lambda request: None,
        is_structured: bool = True,
        piece_bytes: int = 1 << 30,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`piece_bytes`: replies go out in pieces of so many bytes. `tls`: connections are encrypted."""
        self._tls = tls
        self.disk = bytearray(size_bytes)
        self.requests: list[NbdRequest] = []
        """All that have come."""
        self.connections: list[socket.socket] = []
        self.answer = answer
        self._flags, self._is_structured, self._piece_bytes = flags, is_structured, piece_bytes
        self._path = folder / "scripted.sock"
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self._path))
        self._listening.listen(64)
        self.came = threading.Condition()
        """Notified when a connection or a request has come."""
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def uri(self) -> str:
        """Of its export."""
        return f"nbd+unix:///?socket={self._path}"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                end, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(end,), daemon=True).start()

    def _serve(self, end: socket.socket) -> None:
        with end, contextlib.suppress(OSError, EOFError):
            shaken = self._shake_hands(end)
            if shaken is None:
                return
            end = shaken
            with self.came:
                index = len(self.connections)
                self.connections.append(end)
                self.came.notify_all()
            sending = threading.Lock()
            while True:
                _, flags, command, cookie, offset, length = _REQUEST.unpack(_receive(end, _REQUEST.size))
                if command == DISCONNECT:
                    return
                data = _receive(end, length) if command == WRITE else b""
                request = NbdRequest(index, flags, command, cookie, offset, length, data)
                with self.came:
                    self.requests.append(request)
                    self.came.notify_all()
                threading.Thread(target=self._carry_out, args=(end, request, sending), daemon=True).start()

    def _carry_out(self, end: socket.socket, request: NbdRequest, sending: threading.Lock) -> None:
        reply = self.answer(request)
        if reply is None:
            reply = self.usual(request)
        with sending, contextlib.suppress(OSError):
            for place in range(0, len(reply), self._piece_bytes):
                end.sendall(reply[place : place + self._piece_bytes])

    def usual(self, request: NbdRequest) -> bytes:
        """Carry it out, and say so."""
        place = slice(request.offset_bytes, request.offset_bytes + request.length_bytes)
        if request.command == WRITE:
            self.disk[place] = request.data
        elif request.command == ZEROES:
            self.disk[place] = bytes(request.length_bytes)
        elif request.command == READ:
            data = bytes(self.disk[place])
            if not self._is_structured:
                return simple(request.cookie, 0, data)
            return chunk(request.cookie, OFFSET_DATA, struct.pack(">Q", request.offset_bytes) + data)
        return simple(request.cookie)

    def wait(self, condition: Callable[[], bool], timeout_s: float = 30.0) -> bool:
        """Wait until that is so of what has come; False: it never was."""
        with self.came:
            return self.came.wait_for(condition, timeout_s)

    def count(self, command: int) -> int:
        """How many requests of that kind have come."""
        return sum(request.command == command for request in self.requests)

    def _shake_hands(self, end: socket.socket) -> socket.socket | None:
        """Fixed newstyle; what transmission goes by, if any follows."""
        end.sendall(struct.pack(">8sQH", b"NBDMAGIC", _OPTION_MAGIC, 3))
        _receive(end, 4)
        while True:
            _, option, length = struct.unpack(">QII", _receive(end, 16))
            _receive(end, length)
            if option == _OPT_GO:
                export = struct.pack(">HQH", 0, len(self.disk), self._flags)
                end.sendall(_option_reply(option, _REP_INFO, export) + _option_reply(option, _REP_ACK))
                return end
            if option == _OPT_ABORT:
                end.sendall(_option_reply(option, _REP_ACK))
                return None
            if option == _OPT_START_TLS and self._tls is not None:
                end.sendall(_option_reply(option, _REP_ACK))
                end = TlsEnd(self._tls, end)
                continue
            takes = option == _OPT_STRUCTURED and self._is_structured
            end.sendall(_option_reply(option, _REP_ACK if takes else _REP_UNSUPPORTED))

    def __enter__(self) -> "ScriptedNbd":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all connections, and take no more."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        os.unlink(self._path)
        for end in self.connections:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class TlsEnd(socket.socket):
    """An encrypted connection that one thread may read from while others write."""

    def __init__(self, context: ssl.SSLContext, end: socket.socket) -> None:
        super().__init__(fileno=end.detach())
        self._tls = context.wrap_socket(socket.socket(fileno=os.dup(self.fileno())), server_side=True)
        self._turn = threading.Lock()

    def recv(self, size_bytes: int, flags: int = 0) -> bytes:
        """Wait for some, without holding up who sends."""
        self._tls.settimeout(0)
        while True:
            with self._turn, contextlib.suppress(ssl.SSLWantReadError):
                return self._tls.recv(size_bytes)
            select.select([self], [], [])

    def sendall(self, data: bytes, flags: int = 0) -> None:  # type: ignore[override]
        """All of it."""
        with self._turn:
            self._tls.settimeout(None)
            self._tls.sendall(data)
            self._tls.settimeout(0)

    def close(self) -> None:
        """Both descriptors."""
        self._tls.close()
        super().close()


def _option_reply(option: int, kind: int, payload: bytes = b"") -> bytes:
    return struct.pack(">QIII", _OPTION_REPLY_MAGIC, option, kind, len(payload)) + payload


def _receive(end: socket.socket, size_bytes: int) -> bytes:
    data = b""
    while len(data) < size_bytes:
        part = end.recv(size_bytes - len(data))
        if not part:
            raise EOFError
        data += part
    return data
