"""A process of a drive goes on with other storage."""

import msgspec

from ringblk.shm.sync.parcel import unpack_fds
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.open_storage import OpenOverlay
from ringblk.workers.process.messages import ChangeStorage


def change_storage(backend: NativeBackend, message: ChangeStorage, fds: list[int]) -> None:
    """Use what the message says; nothing is in flight. `fds` are taken out of the list."""
    if not message.storage:
        return
    taken = list(fds)
    fds.clear()
    named = dict(zip(message.fd_names, unpack_fds(taken, len(message.fd_names)), strict=False))
    backend.use(msgspec.msgpack.decode(message.storage, type=OpenOverlay), named)
