"""Finding an NBD export: where its server is, and what that says of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.topology import (
    MAX_LOGICAL_BLOCK_BYTES,
    MAX_PHYSICAL_BLOCK_BYTES,
    SECTOR_BYTES,
    BlockTopology,
)
from ringblk.workers.nbd.export import ExportFound, NbdExport, find_addresses
from ringblk.workers.nbd.ledger import MAX_CONNECTIONS
from ringblk.workers.nbd.parts import make_handshake
from ringblk.workers.nbd.uri import BadUri, NbdUri, parse_uri

if TYPE_CHECKING:
    from ringblk.workers.nbd.tls_files import TlsFiles

CONNECT_S = 10.0
"""How long one address of a server may take to answer."""

_log = logging.getLogger(__name__)


class OpenedExport(NamedTuple):
    """What is known once an export was looked at."""

    export: NbdExport
    connection_count: int
    """How many connections to have."""
    files: TlsFiles | None
    """For connections that are encrypted."""


def open_export(uri_text: str, connection_count: int) -> OpenedExport:
    """Find the export; more connections than one are for a server that allows it. Raises `BackendError`."""
    try:
        uri = parse_uri(uri_text)
        addresses = find_addresses(uri)
    except BadUri as error:
        raise BackendError(f"{uri_text}: {error}") from None
    except OSError as error:
        raise BackendError(f"{uri_text}: no such host: {error.strerror or error}") from error
    files = _read_tls_files(uri_text, uri)
    handshake = make_handshake(uri.export_name, files)
    reason = ""
    for place, address in enumerate(addresses):
        try:
            found = handshake.look(address, CONNECT_S)
        except OSError as error:
            reason = str(error.strerror or error)
            if uri.tls is None and "requires TLS" in reason:  # libnbd's words
                reason = f"the server takes encrypted connections alone: {uri_text.replace('nbd', 'nbds', 1)}"
            continue
        first_good = (*addresses[place:], *addresses[:place])
        export = NbdExport(uri_text=uri_text, uri=uri, addresses=first_good, found=found)
        _check(export)
        if connection_count > 1 and not found.can_multi_conn:
            _log.warning("%s: its server allows one connection: there are not %d", uri_text, connection_count)
            connection_count = 1
        return OpenedExport(export, min(connection_count, MAX_CONNECTIONS), files)
    raise BackendError(f"{uri_text}: {reason}")


def _read_tls_files(uri_text: str, uri: NbdUri) -> TlsFiles | None:
    if uri.tls is None:
        return None
    from ringblk.workers.nbd.tls_files import BadTlsFiles, read_files

    try:
        return read_files(uri.tls)
    except BadTlsFiles as error:
        raise BackendError(f"{uri_text}: {error}") from None


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


def read_export(export: NbdExport, files: TlsFiles | None, offset_bytes: int, length_bytes: int) -> bytes:
    """Read from it through a connection made for that. Raises `OSError`."""
    handshake = make_handshake(export.uri.export_name, files)
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
