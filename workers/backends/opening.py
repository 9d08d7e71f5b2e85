"""Opening a drive's storage: an image by its path, or a backend by its name."""

from collections.abc import Mapping

from ringblk.workers.backends.direct_io import DirectMode
from ringblk.workers.backends.native import NativeBackend


def open_image_backend(path: str, *, read_only: bool, direct: DirectMode) -> NativeBackend:
    """A regular file or a block device (`FileBackend`). Raises `BackendError` and `OSError`."""
    from ringblk.workers.backends.file import FileBackend  # each engine imports the backends that it uses

    return FileBackend(path, read_only=read_only, direct=direct)


def open_named_backend(name: str, arguments: Mapping[str, str]) -> NativeBackend:
    """`memory`, `null`, or a class (`package.module:Class`) with these arguments. Raises `BackendError`."""
    from ringblk.workers.backends.loader import load_backend

    return load_backend(name, arguments)
