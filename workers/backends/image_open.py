"""Opening an image that is to be served, by its path or a descriptor that is open on it already."""

import os

from ringblk.workers.backends.direct_open import descriptor_of, open_again
from ringblk.workers.backends.interface import BackendError


def name_of(path: str | os.PathLike[str] | int) -> str:
    """What to call the image in a message."""
    return f"descriptor {path}" if isinstance(path, int) else os.fsdecode(path)


def open_image(path: str | os.PathLike[str] | int, read_only: bool) -> int:
    """Open it without waiting: a pipe is refused later, not waited for. Raises `BackendError`."""
    access = os.O_RDONLY if read_only else os.O_RDWR
    given = path if isinstance(path, int) else descriptor_of(path)
    try:
        if given is not None:
            fd = open_again(given, access)
        else:
            assert not isinstance(path, int)
            fd = os.open(path, access | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise BackendError(f"{name_of(path)}: can't open it: {error.strerror or error}") from error
    os.set_blocking(fd, True)
    return fd
