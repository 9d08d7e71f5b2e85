"""Finding an NBD export: where its server is, and what that says of it."""

from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.topology import (
    MAX_LOGICAL_BLOCK_BYTES,
    MAX_PHYSICAL_BLOCK_BYTES,
    SECTOR_BYTES,
    BlockTopology,
)
from ringblk.workers.nbd.export import BadUri, ExportFound, NbdExport, find_addresses, parse_uri
from ringblk.workers.nbd.ledger import MAX_CONNECTIONS

CONNECT_S = 10.0
"""How long one address of a server may take to answer."""
WANTED_CONNECTIONS = 1
"""Where the server allows more than one."""


def open_export(uri_text: str) -> tuple[NbdExport, int]:
    """The export, and how many connections to have. Raises `BackendError`."""
    from ringblk.workers.nbd.handshake import Handshake

    try:
        uri = parse_uri(uri_text)
        addresses = find_addresses(uri)
    except BadUri as error:
        raise BackendError(f"{uri_text}: {error}") from None
    except OSError as error:
        raise BackendError(f"{uri_text}: no such host: {error.strerror or error}") from error
    if uri.uses_tls:
        raise BackendError(f"{uri_text}: TLS cannot be had")
    handshake = Handshake(uri.export_name)
    reason = ""
    for place, address in enumerate(addresses):
        try:
            found = handshake.look(address, CONNECT_S)
        except OSError as error:
            reason = str(error.strerror or error)
            continue
        first_good = (*addresses[place:], *addresses[:place])
        export = NbdExport(uri_text=uri_text, uri=uri, addresses=first_good, found=found)
        _check(export)
        return export, min(WANTED_CONNECTIONS, MAX_CONNECTIONS) if found.can_multi_conn else 1
    raise BackendError(f"{uri_text}: {reason}")


def _check(export: NbdExport) -> None:
    """Raise `BackendError` for one that can be no drive."""
    minimum_bytes = export.found.minimum_bytes
    if minimum_bytes > MAX_LOGICAL_BLOCK_BYTES:
        raise BackendError(
            f"{export.uri_text}: its blocks of {minimum_bytes} bytes are larger than a guest can have"
            f" ({MAX_LOGICAL_BLOCK_BYTES})"
        )
    if export.size_bytes == 0:
        raise BackendError(f"{export.uri_text}: has no bytes")


def read_export(export: NbdExport, offset_bytes: int, length_bytes: int) -> bytes:
    """Read from it through a connection made for that. Raises `OSError`."""
    from ringblk.workers.nbd.handshake import Handshake

    handshake = Handshake(export.uri.export_name)
    return handshake.read(export.addresses[0], offset_bytes, length_bytes, CONNECT_S)


def export_topology(found: ExportFound) -> BlockTopology:
    """What a guest is told: the server's smallest block is logical, the one that it prefers physical."""
    logical_bytes = max(SECTOR_BYTES, found.minimum_bytes)
    physical_bytes = logical_bytes
    while physical_bytes < min(found.preferred_bytes, 4096, MAX_PHYSICAL_BLOCK_BYTES):
        physical_bytes *= 2
    return BlockTopology(
        logical_block_bytes=logical_bytes,
        physical_block_bytes=physical_bytes,
        minimum_io_bytes=physical_bytes,
        optimal_io_bytes=found.preferred_bytes if found.preferred_bytes > physical_bytes else 0,
        discard_granularity_bytes=physical_bytes,
    )
