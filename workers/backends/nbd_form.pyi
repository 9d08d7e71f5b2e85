from collections.abc import Iterable

from ringblk.workers.backends.asynchronous import AsyncForm
from ringblk.workers.nbd.connection import Connection
from ringblk.workers.nbd.export import NbdExport
from ringblk.workers.nbd.ledger import Ledger
from ringblk.workers.nbd.mailbox import Mailbox
from ringblk.workers.nbd.tls_files import TlsFiles

class NbdForm(AsyncForm):
    """The asynchronous form of an NBD export."""

    def __init__(
        self,
        export: NbdExport,
        ledgers: Ledger,
        mailboxes: Iterable[Mailbox],
        news_fd: int,
        reconnect_s: float | None,
        files: TlsFiles | None,
    ) -> None: ...
    @property
    def connections(self) -> list[Connection]: ...
