"""Where the server of an export is, and what it has said of that."""

import os
import socket
import struct

import msgspec

from ringblk.workers.nbd.uri import NbdUri


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
