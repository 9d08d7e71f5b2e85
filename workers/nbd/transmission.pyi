from ringblk.workers.nbd.ledger import Ledger

class Transmission:
    """Of the connection in one place of the ledger."""

    def __init__(self, ledgers: Ledger, index: int) -> None: ...
