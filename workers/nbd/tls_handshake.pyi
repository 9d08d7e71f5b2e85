from ringblk.workers.nbd.handshake import Handshake
from ringblk.workers.nbd.tls_files import TlsFiles

class TlsHandshake(Handshake):
    """With the server of one export, encrypted."""

    def __init__(self, export_name: bytes, files: TlsFiles) -> None: ...
