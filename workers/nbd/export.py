"""Which export of which NBD server a URI names, and what the server has said of it.

The form of the URI: github.com/NetworkBlockDevice/nbd, doc/uri.md.
"""

import os
import socket
import struct

import msgspec

DEFAULT_PORT = 10809
SCHEMES = ("nbd", "nbds", "nbd+unix", "nbds+unix")
_MAX_SOCKET_PATH = 107
"""Bytes (unix(7))."""


class BadUri(ValueError):  # noqa: N818
    """It names no export. The message says what is wrong with it."""


class NbdUri(msgspec.Struct, frozen=True, kw_only=True):
    """A server's address, and an export's name."""

    host: str = ""
    """Empty where it is a unix socket."""
    port: int = DEFAULT_PORT
    socket_path: str = ""
    export_name: bytes = b""
    """Empty: the server's default export."""
    uses_tls: bool = False


class ExportFound(msgspec.Struct, frozen=True, kw_only=True):
    """What a server says of an export; `can_`: it takes such requests."""

    size_bytes: int
    minimum_bytes: int
    """Of a request, and what offsets are multiples of."""
    preferred_bytes: int
    """0: nothing known."""
    maximum_bytes: int
    """Of a request with data."""
    is_read_only: bool
    can_flush: bool
    can_fua: bool
    can_trim: bool
    can_zero: bool
    can_multi_conn: bool
    """A flush on one connection is for what was written through all."""


class NbdExport(msgspec.Struct, frozen=True, kw_only=True):
    """An export that was found."""

    uri_text: str
    uri: NbdUri
    addresses: tuple[bytes, ...]
    """Of its server, each as `struct sockaddr`."""
    found: ExportFound

    @property
    def size_bytes(self) -> int:
        """In whole sectors."""
        return self.found.size_bytes - self.found.size_bytes % 512

    @property
    def ports(self) -> tuple[int, ...]:
        """Of TCP, that its server has."""
        return () if self.uri.socket_path else (self.uri.port,)


def parse_uri(text: str) -> NbdUri:
    """What an `nbd:` URI names. Raises `BadUri`."""
    from urllib.parse import parse_qsl, unquote_to_bytes, urlsplit  # takes long: for a drive that has a URI

    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise BadUri(str(error)) from None
    if parts.scheme not in SCHEMES:
        raise BadUri(f"{parts.scheme}: is none of {', '.join(SCHEMES)}")
    if parts.fragment:
        raise BadUri("what follows # names nothing")
    settings = dict(parse_qsl(parts.query, keep_blank_values=True))
    socket_path = settings.pop("socket", "")
    export_name = unquote_to_bytes(parts.path.removeprefix("/"))
    uses_tls = parts.scheme.startswith("nbds")
    if settings:
        raise BadUri(f"{next(iter(settings))}= is not known")
    if b"\0" in export_name:
        raise BadUri("no export has a NUL in its name")
    if parts.scheme.endswith("+unix"):
        if parts.hostname or not socket_path:
            raise BadUri(f"{parts.scheme}:///EXPORT?socket=PATH names a unix socket")
        if len(os.fsencode(socket_path)) > _MAX_SOCKET_PATH:
            raise BadUri(f"the path of a unix socket has at most {_MAX_SOCKET_PATH} bytes")
        return NbdUri(socket_path=socket_path, export_name=export_name, uses_tls=uses_tls)
    if socket_path:
        raise BadUri(f"socket= is for {parts.scheme}+unix:")
    if not parts.hostname:
        raise BadUri(f"{parts.scheme}://HOST[:PORT]/EXPORT names a host")
    return NbdUri(host=parts.hostname, port=port or DEFAULT_PORT, export_name=export_name, uses_tls=uses_tls)


def find_addresses(uri: NbdUri) -> tuple[bytes, ...]:
    """Where its server listens: `struct sockaddr` of each address. Raises `OSError`."""
    if uri.socket_path:
        path = os.fsencode(os.path.abspath(uri.socket_path))
        return (struct.pack("=H", socket.AF_UNIX) + path + b"\0",)
    found = socket.getaddrinfo(uri.host, uri.port, type=socket.SOCK_STREAM)
    return tuple(_sockaddr(family, address) for family, _, _, _, address in found)


def _sockaddr(family: int, address: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]) -> bytes:
    host, port = str(address[0]), int(address[1])
    packed = socket.inet_pton(family, host.partition("%")[0])
    if family == socket.AF_INET6:
        flow, scope = (int(number) for number in (*address[2:], 0, 0)[:2])
        return struct.pack("=H", family) + struct.pack(">HI", port, flow) + packed + struct.pack("=I", scope)
    return struct.pack("=H", family) + struct.pack(">H", port) + packed + bytes(8)
