"""What a connection is made of, encrypted or not: each process imports what it uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ringblk.workers.nbd.export import NbdExport
from ringblk.workers.nbd.handshake import Handshake
from ringblk.workers.nbd.ledger import Ledger
from ringblk.workers.nbd.transmission import Transmission

if TYPE_CHECKING:
    from ringblk.workers.nbd.tls_files import TlsFiles


def make_handshake(export_name: bytes, files: TlsFiles | None) -> Handshake:
    """With an export's server; encrypted, where there are files for that. Made before the sandbox."""
    if files is None:
        return Handshake(export_name)
    from ringblk.workers.nbd.tls_handshake import TlsHandshake

    return TlsHandshake(export_name, files)


def make_parts(
    export: NbdExport, ledgers: Ledger, index: int, files: TlsFiles | None
) -> tuple[Handshake, Transmission]:
    """Of the connection in one place of the ledger."""
    if files is None:
        return Handshake(export.uri.export_name), Transmission(ledgers, index)
    from ringblk.workers.nbd.tls_handshake import TlsHandshake
    from ringblk.workers.nbd.tls_transmission import TlsTransmission

    handshake = TlsHandshake(export.uri.export_name, files)
    return handshake, TlsTransmission(ledgers, index, handshake)
