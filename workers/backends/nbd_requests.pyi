from ringblk.workers.nbd.export import ExportFound

class NbdRequests:
    """Requests as an NBD server takes them."""

    def __init__(self, found: ExportFound) -> None: ...
