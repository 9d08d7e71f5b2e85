"""Which file or block device a descriptor is open on, whatever path it was opened by."""

import os
import stat

from ringblk.shm.platform.kernel_files import device_file
from ringblk.shm.platform.statx import BIRTH_TIME, read_statx
from ringblk.workers.backends.answers import StorageIdentity


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
    """When a file was made; 0 where nobody says."""
    seconds, nanoseconds = read_statx(fd, BIRTH_TIME) or (0, 0)
    return seconds * 1_000_000_000 + nanoseconds


def _disk_sequence(device: int) -> int:
    """A number that no other disk has had since the host started (Linux 5.15); 0 where it cannot be told."""
    number = device_file(device, "diskseq", "../diskseq")  # the latter is a partition's
    return int(number) if number.strip().isdecimal() else 0
