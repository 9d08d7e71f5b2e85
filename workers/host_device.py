"""What Linux says of a block device of the host; OSError for a descriptor that isn't one."""

import fcntl
import struct

BLKROGET = 0x125E
BLKSSZGET = 0x1268
BLKGETSIZE64 = 0x80081272


def is_read_only(fd: int) -> bool:
    """Whether the device takes no writes; opening it for writing succeeds all the same."""
    (read_only,) = struct.unpack("=i", fcntl.ioctl(fd, BLKROGET, bytes(4)))
    return bool(read_only)


def logical_block_bytes(fd: int) -> int:
    """The logical block size: the smallest unit that the device reads and writes."""
    (size_bytes,) = struct.unpack("=i", fcntl.ioctl(fd, BLKSSZGET, bytes(4)))
    return int(size_bytes)


def device_size_bytes(fd: int) -> int:
    """The size of the device."""
    (size_bytes,) = struct.unpack("=Q", fcntl.ioctl(fd, BLKGETSIZE64, bytes(8)))
    return int(size_bytes)
