"""Opening a drive's storage: an image by its path, a backend by its name, what another process has open."""

from collections.abc import Mapping, Sequence

from ringblk.shm.platform.shared_memory import make_unnamed
from ringblk.shm.sync.parcel import pack_fds, unpack_fds
from ringblk.workers.backends.direct_io import DirectMode
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.open_storage import (
    OpenFile,
    OpenFolder,
    OpenMemory,
    OpenNbd,
    OpenNull,
    OpenOverlay,
    OpenRbd,
    OpenStorage,
    OpenTracked,
)


def open_image_backend(path: str, *, read_only: bool, direct: DirectMode) -> NativeBackend:
    """A regular file or a block device (`FileBackend`). Raises `BackendError` and `OSError`."""
    from ringblk.workers.backends.file import FileBackend  # each engine imports the backends that it uses

    return FileBackend(path, read_only=read_only, direct=direct)


def open_tracked_backend(path: str, folder: str, *, direct: DirectMode) -> NativeBackend:
    """An image whose changes are tracked in a folder (`TrackedBackend`).

    Raises `BackendError` and `OSError`.
    """
    from ringblk.workers.backends.tracked import TrackedBackend

    return TrackedBackend(path, folder, direct=direct)


def open_overlay_backend(
    base: str | None, overlay: str, *, size_bytes: int | None, direct: DirectMode, snapshot: str | None
) -> NativeBackend:
    """Layers on a base (`OverlayBackend`). Raises `BackendError` and `OSError`."""
    from ringblk.workers.backends.overlay import OverlayBackend

    return OverlayBackend(base, overlay, size_bytes=size_bytes, direct=direct, snapshot=snapshot)


def open_folder_backend(path: str) -> NativeBackend:
    """A folder to be shared (`FolderBackend`). Raises `BackendError` and `OSError`."""
    from ringblk.workers.backends.folder import FolderBackend

    return FolderBackend(path)


def open_file_system(name: str, arguments: Mapping[str, str]) -> NativeBackend:
    """A class that is a file system (`package.module:Class`), with these arguments. Raises `BackendError`."""
    from ringblk.workers.backends.python_folder import load_file_system

    return load_file_system(name, arguments)


def open_remote_backend(
    uri: str,
    *,
    read_only: bool,
    reconnect_s: float | None,
    connections: int,
    rbd_conf: str | None,
    rbd_user: str | None,
) -> NativeBackend:
    """What another host keeps: an RBD image, an NBD export. Raises `BackendError`."""
    if uri.startswith("rbd:"):
        from ringblk.workers.backends.rbd import RbdBackend

        return RbdBackend(uri, read_only=read_only, conf=rbd_conf, user=rbd_user)
    if not uri.startswith("nbd"):
        raise BackendError(f"{uri}: is neither nbd: nor rbd:")
    try:
        from ringblk.workers.backends.nbd import NbdBackend
    except ImportError:
        raise BackendError(
            f"{uri}: this ringblk was built without libnbd: install libnbd-dev and build it again"
        ) from None
    return NbdBackend(uri, read_only=read_only, reconnect_s=reconnect_s, connections=connections)


def open_named_backend(name: str, arguments: Mapping[str, str]) -> NativeBackend:
    """`memory`, `null`, or a class (`package.module:Class`) with these arguments. Raises `BackendError`."""
    from ringblk.workers.backends.loader import load_backend

    return load_backend(name, arguments)


def import_backend(name: str | None, *, is_folder: bool = False) -> None:
    """Import what opens an image (None), that backend, `overlay`, a folder: for what is forked here, too."""
    if is_folder:
        import ringblk.workers.backends.folder
    elif name is None:
        import ringblk.workers.backends.file
    elif name == "overlay":
        import ringblk.workers.backends.overlay
    elif name == "memory":  # without the loader, which opens it and brings much along for others
        import ringblk.workers.backends.memory
    else:
        import ringblk.workers.backends.loader  # noqa: F401


def take_backend(storage: OpenStorage, fds: Sequence[int]) -> NativeBackend:
    """What another process has handed over (`NativeBackend.hand_over`), with the descriptors as its own.

    Opens nothing: it may be done in the sandbox.
    """
    match storage:
        case OpenFile():
            from ringblk.workers.backends.file import FileBackend

            (fd,) = fds
            return FileBackend.take(storage, fd)
        case OpenMemory():
            from ringblk.workers.backends.memory import MemoryBackend

            (fd,) = fds
            return MemoryBackend.take(storage, fd)
        case OpenOverlay():
            from ringblk.workers.backends.overlay import OverlayBackend

            return OverlayBackend.take(storage, unpack_fds(fds, len(storage.fd_names)))
        case OpenFolder():
            from ringblk.workers.backends.folder import FolderBackend

            return FolderBackend.take(storage, *fds)
        case OpenTracked():
            from ringblk.workers.backends.tracked import TrackedBackend

            return TrackedBackend.take(storage, fds)
        case OpenNbd():
            from ringblk.workers.backends.nbd import NbdBackend

            return NbdBackend.take(storage, fds)
        case OpenRbd():
            from ringblk.workers.backends.rbd import RbdBackend

            return RbdBackend.take(storage, fds)
        case OpenNull():
            from ringblk.workers.backends.null import NullBackend

            return NullBackend(storage.size_bytes)


def give_opened(backend: NativeBackend) -> tuple[OpenStorage, list[int], list[int]]:
    """What to say of storage that is open and not claimed yet, the descriptors to send along, and those of
    them that are to be closed when they were sent. Raises `OSError`.
    """
    storage, fds = backend.hand_over()
    if backend.layered is None:
        return storage, list(fds), []
    packed, unneeded = pack_fds(fds)
    chain_fd = make_unnamed("ringblk-chain", 0)  # it may be longer than a message
    unneeded.append(chain_fd)
    with open(chain_fd, "wb", closefd=False) as file:
        file.write(backend.layered.chain.encode())
    return storage, [chain_fd, *packed], unneeded


def take_opened_overlay(
    storage: OpenStorage,
    fds: Sequence[int],
    base: str | None,
    *,
    size_bytes: int | None,
    direct: DirectMode,
    snapshot: str | None,
) -> NativeBackend:
    """An overlay that another process has opened with these arguments (`give_opened`), to be claimed."""
    from ringblk.workers.backends.overlay import OverlayBackend
    from ringblk.workers.backends.overlay_open import OpenedOverlay
    from ringblk.workers.layers.chain_form import Chain

    assert isinstance(storage, OpenOverlay)
    chain_fd, *packed = fds
    with open(chain_fd, "rb") as file:
        file.seek(0)
        chain = Chain.decode(file.read())
    found_fds = dict(zip(storage.fd_names, unpack_fds(packed, len(storage.fd_names)), strict=True))
    backend = OverlayBackend.of(OpenedOverlay(storage, found_fds, chain))
    backend.note_asked(base, size_bytes, direct, snapshot)
    return backend
