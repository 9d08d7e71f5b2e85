"""Where the server of a source is, and connecting to it at the first address that takes a connection."""

import socket
from collections.abc import Callable, Sequence
from typing import TypeVar

from ringblk.engine.fetcher.source import SourceFault

TIMEOUT_S = 30.0
"""Without a byte from the server; the read is begun anew then."""
Address = tuple[int, str | tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]
"""A family, and what `socket.connect` takes."""
End = TypeVar("End")


def find_addresses(host: str, port: int) -> list[Address]:
    """All of a host, over TCP. Raises `SourceFault`."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise SourceFault(f"no such host: {error.strerror or error}") from None
    return [(family, address) for family, _, _, _, address in found]


def connect_first(addresses: Sequence[Address], begin: Callable[[socket.socket], End]) -> End:
    """A connection that `begin` makes of a socket. Raises `OSError` where no address gives one.

    What else `begin` raises is of the server itself: no other address is tried.
    """
    failure: OSError = OSError("no address is known")
    for family, address in addresses:
        end = socket.socket(family, socket.SOCK_STREAM)
        try:
            end.settimeout(TIMEOUT_S)
            end.connect(address)
            if family != socket.AF_UNIX:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            return begin(end)
        except OSError as error:
            failure = error
            end.close()
        except BaseException:
            end.close()
            raise
    raise failure
