from ringblk.workers.backends.asynchronous import AsyncForm
from ringblk.workers.rbd.client import RbdImage

class RbdForm(AsyncForm):
    """The asynchronous form of an RBD image."""

    def __init__(self, image: RbdImage) -> None: ...
