"""Which file or block device a descriptor is open on, whatever path it was opened by."""

import contextlib
import ctypes
import os
import stat
import struct

from ringblk.workers.backends.answers import StorageIdentity

_AT_EMPTY_PATH = 0x1000
_STATX_BTIME = 0x800
_STATX_BYTES = 256
_BTIME_OFFSET_BYTES = 80  # stx_btime in struct statx


def file_identity(fd: int) -> StorageIdentity:
    """What tells it from every other that there is or was. Raises `OSError`."""
    info = os.fstat(fd)
    device, inode = subject_of(info)
    if stat.S_ISBLK(info.st_mode):
        return StorageIdentity(kind="device", device=device, generation=_disk_sequence(device))
    return StorageIdentity(kind="image", device=device, inode=inode, generation=_birth_ns(fd))


def subject_of(info: os.stat_result) -> tuple[int, int]:
    """`StorageIdentity.subject` of a file or block device; never (0, 0)."""
    return (info.st_rdev, 0) if stat.S_ISBLK(info.st_mode) else (info.st_dev, info.st_ino)


def _birth_ns(fd: int) -> int:
    """When a file was made (statx(2)); 0 where the C library, kernel or file system doesn't say."""
    try:
        statx = ctypes.CDLL(None).statx
    except AttributeError:
        return 0
    answer = ctypes.create_string_buffer(_STATX_BYTES)
    if statx(fd, b"", _AT_EMPTY_PATH, _STATX_BTIME, answer) != 0:
        return 0
    (mask,) = struct.unpack_from("=I", answer)
    seconds, nanoseconds = struct.unpack_from("=qI", answer, _BTIME_OFFSET_BYTES)
    return (seconds * 1_000_000_000 + nanoseconds) if mask & _STATX_BTIME else 0


def _disk_sequence(device: int) -> int:
    """A number that no other disk has had since the host started (Linux 5.15); 0 where it cannot be told."""
    folder = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    for path in (f"{folder}/diskseq", f"{folder}/../diskseq"):  # the latter is a partition's
        with contextlib.suppress(OSError, ValueError), open(path) as file:
            return int(file.read())
    return 0
