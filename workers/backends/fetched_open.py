"""Opening a base that is fetched as it is read: its fetcher says what it is, and has the layer ready."""

import os
from typing import NamedTuple

from ringblk.workers.backends.direct_io import DirectMode
from ringblk.workers.backends.file import FileBackend
from ringblk.workers.backends.interface import BackendError, BaseImageError
from ringblk.workers.backends.open_storage import OpenFetched
from ringblk.workers.fetch.source_form import identity_of, name_of
from ringblk.workers.fetch.starting import FetcherGone, look_at_source
from ringblk.workers.layers.folder import DATA, LIVE
from ringblk.workers.layers.form import BaseIdentity


class FetchedFiles(NamedTuple):
    """What of a fetched base is open."""

    identity: BaseIdentity
    data: FileBackend
    fetched: OpenFetched
    map_fd: int


def open_fetched(folder: str, direct: DirectMode) -> FetchedFiles:
    """The layer that is filled; its fetcher is started, if there is none. Raises `BaseImageError`."""
    try:
        state = look_at_source(folder)
    except FetcherGone as error:
        raise BaseImageError(f"{name_of(folder)}: {error}") from None
    if state.pin is None or state.has_changed:
        raise BaseImageError(f"{state.uri}: {state.fault}")
    try:
        data = FileBackend(os.path.join(folder, DATA), read_only=True, direct=direct)
    except BackendError as error:
        raise BaseImageError(str(error)) from error
    try:
        map_fd = os.open(os.path.join(folder, LIVE), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        data.close()
        raise BaseImageError(f"{folder}: can't open it: {error.strerror or error}") from error
    identity = identity_of(folder, state.layer_id, state.pin)
    fetched = OpenFetched(
        folder=os.fsdecode(identity.path), layer_id=identity.layer_id, size_bytes=state.pin.size_bytes
    )
    return FetchedFiles(identity, data, fetched, map_fd)
