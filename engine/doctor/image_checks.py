"""What a drive's image can do, or a file that would be made in a folder: opened as an engine opens it."""

import contextlib
import mmap
import os
import stat
import tempfile
from collections.abc import Callable

import msgspec

from ringblk.engine.base.number_text import size_text
from ringblk.engine.devices.io_plan import plan_io
from ringblk.engine.doctor.check import CheckResult, failure, ok, warning
from ringblk.engine.drives.image_users import engines_on, holder_name, living
from ringblk.engine.images.served_format import format_refusal
from ringblk.shm.platform.block_device import is_read_only
from ringblk.shm.platform.uncached import HAS_UNCACHED
from ringblk.workers.backends.file_waiting import file_system_of
from ringblk.workers.backends.image_lock import ImageLock
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.opening import open_image_backend

SAMPLE_BYTES = 1 << 20
"""Of the file that is made in a folder."""
_BLOCK_BYTES = 4096
_DIRECT_MEND = "a file system that has direct I/O (ext4, XFS, btrfs; tmpfs from Linux 6.6), or --direct=off"


class OpenedImage(msgspec.Struct, frozen=True):
    """An image as an engine sees it, open for reading."""

    path: str
    backend: NativeBackend
    read_only: bool
    """Whether it is looked at for a guest that may only read."""


ImageCheck = Callable[[OpenedImage], CheckResult]


def check_path(path: str, *, read_only: bool) -> list[CheckResult]:
    """All checks of an image, or of a file that is made in this folder and removed again."""
    is_folder = os.path.isdir(path)
    try:
        opened = _open_sample(path) if is_folder else _open_image(path, read_only)
    except (OSError, BackendError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        mend = "let this user write to the folder" if is_folder else _open_mend(error)
        return [failure("access", reason.removeprefix(f"{path}: "), mend)]
    with contextlib.closing(opened.backend):
        return [check(opened) for check in IMAGE_CHECKS]


def _open_image(path: str, read_only: bool) -> OpenedImage:
    """Only for reading: whether it could be written to is asked without opening it."""
    return OpenedImage(path, open_image_backend(path, read_only=True, direct="auto"), read_only)


def _open_sample(folder: str) -> OpenedImage:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(SAMPLE_BYTES))
        file.flush()
        name = f"/dev/fd/{file.fileno()}"
        return OpenedImage(folder, open_image_backend(name, read_only=False, direct="auto"), False)


def _open_mend(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error, BackendError) else error
    if isinstance(cause, PermissionError):
        return "let the user that engines run as read it (chown, chmod), or start them as root with --user"
    if isinstance(cause, FileNotFoundError):
        return "`ringblk image create` makes an empty one"
    return "name a regular file that is not empty, or a block device"


def check_access(image: OpenedImage) -> CheckResult:
    """Whether this user can have it as the drive wants it."""
    info = os.fstat(image.backend.fd)
    is_device = stat.S_ISBLK(info.st_mode)
    kind = "block device" if is_device else "file"
    place = file_system_of(image.backend.fd) or "an unknown file system"
    what = f"{size_text(image.backend.size_bytes)} {kind} on {place}"
    if image.read_only:
        return ok("access", f"{what}, can be read")
    if is_device and is_read_only(image.backend.fd):
        return failure("access", f"{what}: the device takes no writes", "--read-only, or blockdev --setrw")
    if not image.backend.read_only or os.access(image.path, os.W_OK, effective_ids=True):
        return ok("access", f"{what}, can be written")
    mend = "--read-only, or let the user that engines run as write to it (chown, chmod, setfacl)"
    return failure("access", f"{what}: this user may not write to it", mend)


def check_direct_io(image: OpenedImage) -> CheckResult:
    """Whether I/O goes past the host's page cache, with a read that does."""
    name = "direct I/O"
    backend = image.backend
    granted = backend.direct_io()
    if not granted.is_direct:
        what = f"{granted.reason}; the drive goes through the page cache"
        if "multiple" in granted.reason:
            return warning(name, what, f"make its size one (truncate -s %{_BLOCK_BYTES}), or --direct=off")
        return warning(name, what, _DIRECT_MEND if HAS_UNCACHED else "--direct=off says the same")
    with contextlib.closing(mmap.mmap(-1, _BLOCK_BYTES)) as page, memoryview(page) as block:
        try:
            backend.read_at(0, block[: min(_BLOCK_BYTES, backend.size_bytes)])
        except OSError as error:
            return failure(name, f"a read past the page cache fails: {error.strerror or error}", _DIRECT_MEND)
    what = f"in blocks of {backend.block_size_bytes} bytes"
    if backend.block_size_bytes > 512:
        what += "; a guest's smaller writes read the block first"
    return ok(name, what)


def check_plan(image: OpenedImage) -> CheckResult:
    """Who would carry requests out, and why."""
    plan = plan_io("auto", image.backend)
    return ok("I/O engine", f"{plan.name}: {plan.reason}")


def check_lock(image: OpenedImage) -> CheckResult:
    """Whether somebody has the image already; no lock is taken."""
    name = "lock"
    try:
        is_locked = ImageLock(image.backend.fd, image.read_only).is_in_the_way()
    except OSError as error:
        what = f"it cannot be locked: {error.strerror or error}; nothing keeps others off it"
        return warning(name, what, "a file system with locks (of NFS, a mount without nolock)")
    if not is_locked:
        return ok(name, "nobody has it")
    identity = image.backend.identity()
    engines = living(engines_on(identity.subject)) if identity is not None else []
    mend = "--takeover goes on in its place" if engines else "end it (lsof names it), or use another image"
    return failure(name, f"in use by {holder_name(engines)}", mend)


def check_format(image: OpenedImage) -> CheckResult:
    """Whether an engine takes it for raw."""
    try:
        refusal = format_refusal(image.backend)
    except OSError as error:
        return failure("format", f"it cannot be read: {error.strerror or error}", "look at the disk (dmesg)")
    if refusal is not None:
        return failure("format", refusal.what, refusal.mend)
    return ok("format", "raw")


IMAGE_CHECKS: tuple[ImageCheck, ...] = (check_access, check_direct_io, check_plan, check_lock, check_format)
