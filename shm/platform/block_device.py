"""What Linux says of a block device of the host; OSError for a descriptor that isn't one.

Other systems ask in other ways, which are not here: a block device is an OSError there, too.
"""

import errno
import fcntl
import os
import struct
import sys

from ringblk.shm.platform.kernel_files import device_file

BLKROGET = 0x125E
BLKSSZGET = 0x1268
BLKIOMIN = 0x1278
BLKIOOPT = 0x1279
BLKALIGNOFF = 0x127A
BLKPBSZGET = 0x127B
BLKGETSIZE64 = 0x80081272


def is_read_only(fd: int) -> bool:
    """Whether the device takes no writes; opening it for writing succeeds all the same."""
    return bool(_ask(fd, BLKROGET))


def logical_block_bytes(fd: int) -> int:
    """The logical block size: the smallest unit that the device reads and writes."""
    return _ask(fd, BLKSSZGET)


def physical_block_bytes(fd: int) -> int:
    """The physical block size: what the device writes in one piece, without reading before."""
    return _ask(fd, BLKPBSZGET)


def minimum_io_bytes(fd: int) -> int:
    """The smallest request that costs nothing extra: of a RAID, its chunk."""
    return _ask(fd, BLKIOMIN)


def optimal_io_bytes(fd: int) -> int:
    """The largest request that is best: of a RAID, its stripe. 0 where the device doesn't say."""
    return _ask(fd, BLKIOOPT)


def alignment_offset_bytes(fd: int) -> int:
    """Where the first physical block begins; 0 for a partition that lies askew."""
    return max(0, _ask(fd, BLKALIGNOFF))


def discard_granularity_bytes(fd: int) -> int:
    """The unit that the device gives space back in; 0 where it doesn't, or doesn't say. (No ioctl tells.)"""
    name = "queue/discard_granularity"
    found = device_file(os.fstat(fd).st_rdev, name, f"../{name}")  # a partition has the queue of its disk
    return int(found) if found.strip().isdecimal() else 0


def device_size_bytes(fd: int) -> int:
    """The size of the device."""
    (size_bytes,) = struct.unpack("=Q", _request(fd, BLKGETSIZE64, 8))
    return int(size_bytes)


def _ask(fd: int, request: int) -> int:
    """What an ioctl says that gives an int."""
    (value,) = struct.unpack("=i", _request(fd, request, 4))
    return int(value)


def _request(fd: int, request: int, size_bytes: int) -> bytes:
    if sys.platform != "linux":
        raise OSError(errno.EOPNOTSUPP, "block devices can be asked on Linux only")
    return fcntl.ioctl(fd, request, bytes(size_bytes))
