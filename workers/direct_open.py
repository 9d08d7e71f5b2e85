"""Opening a file for direct I/O, or without it where that is refused and the caller said "auto"."""

import logging
import os
from typing import NamedTuple

from ringblk.workers.direct_io import DirectMode, set_direct

CREATED_MODE = 0o666  # less the umask, as any program that writes a file for its user
CACHED_ALIGNMENT_BYTES = 4096  # not needed through the page cache; whole pages are cheaper
# For whoever copies whole images: a quarter of the wake-ups of 1 MiB buffers, which counts on busy cores.
LARGE_BUFFER_BYTES = 4 << 20

log = logging.getLogger(__name__)


class OpenedFile(NamedTuple):
    """An open file and whether I/O on it goes past the page cache; `refusal` says why not."""

    fd: int
    direct: bool
    alignment_bytes: int
    refusal: str | None


def open_direct(path: str | os.PathLike[str], flags: int, mode: DirectMode) -> OpenedFile:
    """Open `path` and set the direct flag. Raises OSError, also for a refused flag if `mode` is "on".

    `alignment_bytes` serves for offsets, lengths and memory alike.
    """
    fd = os.open(path, flags | os.O_CLOEXEC, CREATED_MODE)
    try:
        return _make_direct(fd, path, mode)
    except BaseException:
        os.close(fd)
        raise


def _make_direct(fd: int, path: str | os.PathLike[str], mode: DirectMode) -> OpenedFile:
    if mode == "off":
        return OpenedFile(fd, False, CACHED_ALIGNMENT_BYTES, "not asked for")
    try:
        alignment = set_direct(fd)
    except OSError as error:
        if mode == "on":
            raise OSError(
                error.errno, f"direct I/O is refused ({error.strerror or error})", os.fspath(path)
            ) from error
        refusal = f"direct I/O is refused ({error.strerror or error})"
        log.warning("%s: %s, going through the page cache", os.fspath(path), refusal)
        return OpenedFile(fd, False, CACHED_ALIGNMENT_BYTES, refusal)
    return OpenedFile(fd, True, max(alignment), None)
