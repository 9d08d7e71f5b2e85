"""An image is served raw, so one that is something else is refused: its guest would see a header for a disk.

A guest can write any beginning into its disk, that of a qcow2 image too. So `--format=raw` ends the question
for good. An engine that takes over from another, or finds the segment that a killed one left, does not ask:
that one served the image raw.
"""

import logging

import msgspec

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.drives.image_users import engines_on
from ringblk.engine.images.format import CONTAINER_HEAD_BYTES, TAIL_BYTES, UNREADABLE, find_container
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.workers.backends.native import NativeBackend


class FormatRefusal(msgspec.Struct, frozen=True):
    """What an image is that is not served, and what to do."""

    container: str
    mend: str

    @property
    def what(self) -> str:
        """What is wrong."""
        return f"this is a {self.container} file, and only raw images are served"


_log = logging.getLogger(__name__)


def check_served_format(config: DriveConfig, backend: NativeBackend) -> None:
    """Raise `ProgramError` if the image is in a format that is not served, and nobody insists."""
    image = backend.image
    option = config.storage_option if config.base is None else f"--base {config.base}"
    if config.format == "raw" or image is None:
        return
    try:
        refusal = format_refusal(image)
    except OSError as error:
        _log.warning("%s: cannot see whether it is raw: %s", option, error.strerror)
        return
    if refusal is None:
        return
    storage = backend.identity()
    if storage is not None and engines_on(storage.subject):
        _log.warning("%s: looks like a %s file, and goes on as raw", option, refusal.container)
        return
    raise ProgramError(f"{option}: {refusal.what}: {refusal.mend}", ExitStatus.FAILED)


def format_refusal(backend: NativeBackend) -> FormatRefusal | None:
    """Why an image is not served where nobody insists; None: it is. Raises `OSError`."""
    head = _read(backend, 0, CONTAINER_HEAD_BYTES)
    tail = _read(backend, backend.size_bytes - TAIL_BYTES, TAIL_BYTES)
    container = find_container(head, tail)
    if container is None:
        return None
    advice = UNREADABLE.get(container, "`ringblk image import` makes a raw image of it")
    return FormatRefusal(container, f"{advice}; --format=raw serves it as it is")


def _read(backend: NativeBackend, offset_bytes: int, size_bytes: int) -> bytes:
    buffer = bytearray(size_bytes)
    backend.read_at(offset_bytes, memoryview(buffer))
    return bytes(buffer)
