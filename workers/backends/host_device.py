"""What Linux says of a block device of the host; OSError for a descriptor that isn't one."""

import fcntl
import os
import struct

BLKROGET = 0x125E
BLKSSZGET = 0x1268
BLKIOMIN = 0x1278
BLKIOOPT = 0x1279
BLKALIGNOFF = 0x127A
BLKPBSZGET = 0x127B
BLKGETSIZE64 = 0x80081272


def is_read_only(fd: int) -> bool:
    """Whether the device takes no writes; opening it for writing succeeds all the same."""
    (read_only,) = struct.unpack("=i", fcntl.ioctl(fd, BLKROGET, bytes(4)))
    return bool(read_only)


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
    device = os.fstat(fd).st_rdev
    folder = os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    for disk in (folder, os.path.dirname(folder)):  # a partition has the queue of its disk
        try:
            with open(f"{disk}/queue/discard_granularity") as file:
                return int(file.read())
        except (OSError, ValueError):
            continue
    return 0


def _ask(fd: int, request: int) -> int:
    """What an ioctl says that gives an int."""
    (value,) = struct.unpack("=i", fcntl.ioctl(fd, request, bytes(4)))
    return int(value)


def device_size_bytes(fd: int) -> int:
    """The size of the device."""
    (size_bytes,) = struct.unpack("=Q", fcntl.ioctl(fd, BLKGETSIZE64, bytes(8)))
    return int(size_bytes)
