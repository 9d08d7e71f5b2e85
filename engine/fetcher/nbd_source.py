"""A source that is an export of an NBD server, over as many connections as there are reads under way."""

import os
import socket
import ssl
import struct
from collections.abc import Callable
from typing import TypeVar

from ringblk.engine.fetcher.idle_ends import IdleEnds
from ringblk.engine.fetcher.server_address import Address, connect_first, find_addresses
from ringblk.engine.fetcher.source import SourceChanged, SourceFault, SourceRefused
from ringblk.workers.nbd.export import ExportFound
from ringblk.workers.nbd.negotiation import START_TLS, Conversation, NotServed, negotiate
from ringblk.workers.nbd.tls_files import BadTlsFiles, make_context, read_files, reason_of
from ringblk.workers.nbd.uri import BadUri, NbdUri, parse_uri

_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")
_REQUEST_MAGIC, _REPLY_MAGIC, _READ = 0x25609513, 0x67446698, 0
_Result = TypeVar("_Result")


class NbdSource:
    """`nbd:` or `nbds:`, over TCP or a unix socket. An export has no marks: its size alone is compared."""

    def __init__(self, uri: str) -> None:
        try:
            self._uri = parse_uri(uri)
        except BadUri as error:
            raise SourceRefused(str(error)) from None
        self._addresses: list[Address] = []
        self._context: ssl.SSLContext | None = None
        self._ends = IdleEnds(self._connect)
        self._pinned_bytes: int | None = None

    @property
    def ports(self) -> tuple[int, ...]:
        """The server's, where it has one."""
        return () if self._uri.socket_path else (self._uri.port,)

    def prepare(self) -> None:
        """Find the server, and read what TLS needs. Raises `SourceFault`."""
        try:
            if self._uri.socket_path:
                self._addresses = [(socket.AF_UNIX, os.path.abspath(self._uri.socket_path))]
            else:
                self._addresses = find_addresses(self._uri.host, self._uri.port)
            if self._uri.tls is not None:
                self._context = make_context(read_files(self._uri.tls))
        except BadTlsFiles as error:
            raise SourceRefused(str(error)) from None
        except OSError as error:
            raise SourceFault(f"no such host: {error.strerror or error}") from None

    def pin(self, size_bytes: int, marks: dict[str, str]) -> None:
        """It has to be as large as that from now on."""
        self._pinned_bytes = size_bytes

    def look(self) -> tuple[int, dict[str, str]]:
        """As large as the server says. Raises `SourceFault`."""
        return self._with_end(lambda end: end.found.size_bytes), {}

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """So many bytes. Raises `SourceFault`."""
        return self._with_end(lambda end: self._read(end, offset_bytes, length_bytes))

    def _read(self, end: "NbdEnd", offset_bytes: int, length_bytes: int) -> bytes:
        has_bytes = end.found.size_bytes
        if self._pinned_bytes is not None and has_bytes != self._pinned_bytes:
            raise SourceChanged(
                f"its source is not what it was: it had {self._pinned_bytes} bytes and has {has_bytes}"
            )
        return end.read(offset_bytes, length_bytes)

    def _with_end(self, use: Callable[["NbdEnd"], _Result]) -> _Result:
        try:
            with self._ends.one() as end:
                return use(end)
        except NotServed as error:
            raise SourceRefused(str(error)) from None
        except ssl.SSLCertVerificationError as error:
            raise SourceRefused(f"the server's certificate is refused: {error.verify_message}") from None
        except ssl.SSLError as error:
            raise SourceFault(f"no TLS with the server: {reason_of(error)}") from None
        except OSError as error:
            raise SourceFault(f"the server does not answer: {error.strerror or error}") from None

    def _connect(self) -> "NbdEnd":
        """Raises `OSError` and `NotServed`."""
        return connect_first(self._addresses, lambda end: NbdEnd(end, self._uri, self._context))


class NbdEnd:
    """A connection, which has one read under way at a time."""

    def __init__(self, end: socket.socket, uri: NbdUri, context: ssl.SSLContext | None) -> None:
        """Shake hands; the socket is this object's. Raises `OSError` and `NotServed`."""
        self._end = end
        conversation = negotiate(uri.export_name, self._say, encrypts=context is not None)
        name = None if uri.tls is None else uri.tls.hostname or None
        self.found = self._converse(conversation, context, name)

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """So many bytes. Raises `OSError` and `NotServed`."""
        content = bytearray(length_bytes)
        for begin in range(0, length_bytes, self.found.maximum_bytes):
            part = memoryview(content)[begin : begin + self.found.maximum_bytes]
            self._say(_REQUEST.pack(_REQUEST_MAGIC, 0, _READ, begin, offset_bytes + begin, len(part)))
            magic, error_number, cookie = _REPLY.unpack(self._hear(_REPLY.size))
            if magic != _REPLY_MAGIC or cookie != begin:
                raise OSError("it answers with what is no NBD")
            if error_number:
                raise OSError(error_number, f"the server has failed to read: {os.strerror(error_number)}")
            self._hear_into(part)
        return bytes(content)

    def close(self) -> None:
        """Hang up."""
        self._end.close()

    def _converse(
        self, conversation: Conversation, context: ssl.SSLContext | None, name: str | None
    ) -> ExportFound:
        wanted = next(conversation)
        try:
            while True:
                if wanted == START_TLS:
                    assert context is not None
                    self._end = context.wrap_socket(self._end, server_hostname=name)
                    wanted = conversation.send(b"")
                else:
                    wanted = conversation.send(bytes(self._hear(wanted)))
        except StopIteration as end:
            found: ExportFound = end.value
            return found

    def _say(self, data: bytes) -> None:
        self._end.sendall(data)

    def _hear(self, length_bytes: int) -> bytearray:
        content = bytearray(length_bytes)
        self._hear_into(memoryview(content))
        return content

    def _hear_into(self, target: memoryview) -> None:
        while target:
            count = self._end.recv_into(target)
            if count == 0:
                raise OSError("it has ended the connection")
            target = target[count:]
