from collections.abc import Callable, Sequence

from ringblk.workers.nbd.handshake import Handshake
from ringblk.workers.nbd.ledger import Ledger
from ringblk.workers.nbd.mailbox import Mailbox

class Connection:
    """One connection to an NBD server through its life."""

    def __init__(
        self,
        ledgers: Ledger,
        index: int,
        mailbox: Mailbox,
        handshake: Handshake,
        addresses: Sequence[bytes],
        epoll_fd: int,
        note: Callable[[bool, int], None],
    ) -> None: ...

def keep_alive(fd: int) -> None: ...
