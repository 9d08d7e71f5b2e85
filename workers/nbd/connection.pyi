from collections.abc import Callable, Sequence

from ringblk.workers.nbd.handshake import Handshake
from ringblk.workers.nbd.ledger import Ledger
from ringblk.workers.nbd.mailbox import Mailbox
from ringblk.workers.nbd.transmission import Transmission

class Connection:
    """One connection to an NBD server through its life."""

    def __init__(
        self,
        ledgers: Ledger,
        index: int,
        mailbox: Mailbox,
        handshake: Handshake,
        transmission: Transmission,
        addresses: Sequence[bytes],
        epoll_fd: int,
        note: Callable[[bool, int, str], None],
    ) -> None: ...

def keep_alive(fd: int) -> None: ...
