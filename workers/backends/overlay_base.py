"""What an overlay lies on: an image, or a snapshot of another overlay and all that lies below that."""

import logging
import os
from typing import NamedTuple

import msgspec

from ringblk.shm.platform.shared_memory import make_unnamed
from ringblk.workers.backends.direct_io import DirectMode
from ringblk.workers.backends.fetched import COUNTS_BYTES
from ringblk.workers.backends.fetched_open import open_fetched
from ringblk.workers.backends.file import FileBackend
from ringblk.workers.backends.image_lock import ImageLocked
from ringblk.workers.backends.interface import BackendError, BaseImageError
from ringblk.workers.backends.open_storage import OpenFetched, OpenFile
from ringblk.workers.fetch.source_form import is_source
from ringblk.workers.layers.chain_form import ChainLayer
from ringblk.workers.layers.folder import MAP, base_fault, base_identity
from ringblk.workers.layers.form import LAYER_BASE, BaseIdentity, LayerDamaged
from ringblk.workers.layers.overlay_folder import opened_layer, read_chain
from ringblk.workers.layers.snapshot_lock import use_first_layer, use_snapshot

_log = logging.getLogger(__name__)


class OpenBase(NamedTuple):
    """A base, as it is now."""

    identity: BaseIdentity
    image: FileBackend | None
    """What lies at the bottom; None: nothing does."""
    layers: list[tuple[str, ChainLayer]]
    """The layers above that, the nearest first, each with its overlay's folder."""
    lock_fds: list[int]
    """What keeps those from being removed."""
    fetched: OpenFetched | None = None
    """Where the image is fetched as it is read,"""
    map_fd: int = -1
    """and which blocks of it are there."""

    def keep(self, fds: dict[str, int]) -> OpenFile | None:
        """Have descriptors of it in `fds` as well, by name; what holds of the image. Raises `OSError`."""
        for number, fd in enumerate(self.lock_fds):
            fds[f"base lock {number}"] = os.dup(fd)
        if self.image is None:
            return None
        fds["base"] = os.dup(self.image.fd)
        image = self.image.hand_over()[0]
        assert isinstance(image, OpenFile)
        if self.fetched is None:
            return image
        fds["base map"] = os.dup(self.map_fd)
        fds["base counts"] = make_unnamed("ringblk-base", COUNTS_BYTES)
        return msgspec.structs.replace(image, size_bytes=self.fetched.size_bytes)

    def close(self) -> None:
        """Let go of it."""
        if self.image is not None:
            self.image.close()
        _close_all([*self.lock_fds, *([] if self.map_fd < 0 else [self.map_fd])])


def open_base(path: str, direct: DirectMode, snapshot: str | None = None, layer_id: bytes = b"") -> OpenBase:
    """The base, read-only, and locked against who would change it. Raises `BaseImageError`.

    Of an overlay's folder it is the `snapshot`, or the layer with an id.
    """
    if is_source(path):
        if snapshot is not None:
            raise BaseImageError(f"{path}: has no snapshots: it is fetched")
        found = open_fetched(path, direct)
        return OpenBase(found.identity, found.data, [], [], found.fetched, found.map_fd)
    if not os.path.isdir(path):
        if snapshot is not None:
            raise BaseImageError(f"{path}: has no snapshots: it is no folder of an overlay")
        image = _open_image(path, direct)
        try:
            identity = base_identity(image.fd, os.path.realpath(os.fsencode(path)), image.size_bytes)
        except OSError as error:
            image.close()
            raise BaseImageError(f"{path}: can't open it: {error.strerror or error}") from error
        return OpenBase(identity, image, [], [])
    try:
        return _open_snapshot(path, direct, snapshot, layer_id)
    except LayerDamaged as error:
        raise BaseImageError(f"{path}: {error}") from None
    except OSError as error:
        raise BaseImageError(f"{path}: can't open it: {error.strerror or error}") from error


def check_base(folder: str, was: BaseIdentity, now: BaseIdentity) -> None:
    """Raise `BaseImageError` where a base is not what it was."""
    fault = base_fault(folder, was, now)
    if fault is not None:
        raise BaseImageError(f"{os.fsdecode(now.path)}: {fault}")


def _open_image(path: str, direct: DirectMode) -> FileBackend:
    try:
        base = FileBackend(path, read_only=True, direct=direct)
    except BackendError as error:
        raise BaseImageError(str(error)) from error
    try:
        base.image_lock().lock()
    except ImageLocked:
        base.close()
        raise BaseImageError(f"{path}: another program writes to it: stop that first") from None
    except OSError as error:
        _log.warning("%s: cannot be locked: %s; nothing keeps writers off it", path, error.strerror or error)
    return base


def _open_snapshot(path: str, direct: DirectMode, snapshot: str | None, layer_id: bytes) -> OpenBase:
    """Raises `BaseImageError`, `LayerDamaged`, `OSError`."""
    folder_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        chain = read_chain(folder_fd)
        if chain is None:
            raise LayerDamaged("is an empty folder")
        layer = chain.layers.get(layer_id) if layer_id else chain.snapshot(snapshot or "")
        if layer is None:
            raise LayerDamaged(_missing(snapshot, [each.name for each in chain.layers.values() if each.name]))
        branch = list(chain.branch(layer.layer_id))
        if not all(each.is_settled for each in branch):
            raise LayerDamaged("its newest snapshot is not on the disk yet: start its drive, or try again")
        lock_fds = _lock_branch(folder_fd, branch)
    finally:
        os.close(folder_fd)
    identity = BaseIdentity(
        kind=LAYER_BASE,
        path=os.path.realpath(os.fsencode(path)),
        size_bytes=layer.size_bytes,
        layer_id=layer.layer_id,
    )
    layers = [(path, each) for each in branch]
    try:
        if branch[-1].has_no_base:
            return OpenBase(identity, None, layers, lock_fds)
        below = open_base(os.fsdecode(chain.base.path), direct, layer_id=chain.base.layer_id)
    except BaseException:
        _close_all(lock_fds)
        raise
    opened = below._replace(
        identity=identity, layers=layers + below.layers, lock_fds=lock_fds + below.lock_fds
    )
    try:
        check_base(path, chain.base, below.identity)
    except BaseException:
        opened.close()
        raise
    return opened


def _lock_branch(folder_fd: int, branch: list[ChainLayer]) -> list[int]:
    """Descriptors that keep a snapshot and what it lies on. Raises `LayerDamaged`, `OSError`."""
    fds: list[int] = []
    uses = [(branch[0], use_snapshot), *((each, use_first_layer) for each in branch if each.is_first)]
    try:
        for layer, use in uses:
            with opened_layer(folder_fd, layer) as layer_fd:
                fds.append(os.open(MAP, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=layer_fd))
            use(fds[-1])
        chain = read_chain(folder_fd)
        if chain is None or any(each.layer_id not in chain.layers for each in branch):
            raise LayerDamaged("its layers were merged at this moment: try again")
    except BaseException:
        _close_all(fds)
        raise
    return fds


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _missing(snapshot: str | None, names: list[str]) -> str:
    known = f"it has {', '.join(sorted(names))}" if names else "it has none"
    if snapshot is None:
        return f"is an overlay: say which snapshot of it is the base (--base-snapshot; {known})"
    return f"has no snapshot {snapshot}: {known}"
