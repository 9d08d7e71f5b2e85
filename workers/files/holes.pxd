# Passing over holes of a file, so that what was never written is not read.

from libc.errno cimport ENXIO, errno
from libc.stdint cimport uint64_t
from posix.types cimport off_t

cdef extern from "unistd.h" nogil:
    int SEEK_DATA
    off_t lseek(int fd, off_t offset_bytes, int whence)


cdef inline uint64_t next_data(int fd, uint64_t offset_bytes, uint64_t end_bytes) noexcept nogil:
    """Where the first data from `offset_bytes` on are; `end_bytes` where a hole reaches as far.

    All is data where the file system cannot tell. Moves the descriptor's position.
    """
    cdef off_t found = lseek(fd, <off_t>offset_bytes, SEEK_DATA)
    if found < 0:
        return end_bytes if errno == ENXIO else offset_bytes
    return min(<uint64_t>found, end_bytes)
