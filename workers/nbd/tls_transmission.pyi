from ringblk.workers.nbd.ledger import Ledger
from ringblk.workers.nbd.tls_handshake import TlsHandshake
from ringblk.workers.nbd.transmission import Transmission

class TlsTransmission(Transmission):
    """The transmission phase of an encrypted connection."""

    def __init__(self, ledgers: Ledger, index: int, handshake: TlsHandshake) -> None: ...
