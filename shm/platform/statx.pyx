# cython: language_level=3
"""What statx(2) says of an open file, for the fields that `os.stat` does not have.

Compiled, because ctypes would take 4 ms of an engine's start. By its number, because a C library older than 2.28
has no function for it.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy

from ringblk.shm.platform.form cimport IS_LINUX

cdef extern from * nogil:
    """
    #if RINGBLK_LINUX
    #include <sys/syscall.h>
    #include <unistd.h>
    static int ringblk_statx(int fd, int flags, unsigned mask, void *answer)
        { return (int)syscall(SYS_statx, (long)fd, "", (long)flags, (unsigned long)mask, answer); }
    #else
    static int ringblk_statx(int fd, int flags, unsigned mask, void *answer)
        { (void)fd; (void)flags; (void)mask; (void)answer; return -1; }
    #endif
    """
    int ringblk_statx(int fd, int flags, uint32_t mask, void *answer)

cdef enum:
    AT_EMPTY_PATH = 0x1000
    STATX_BYTES = 256
    # Where struct statx has the fields (linux/stat.h).
    MASK_OFFSET = 0
    BIRTH_TIME_OFFSET = 80
    DIO_ALIGN_OFFSET = 152

DIO_ALIGN = 0x2000
"""Fields of STATX_DIOALIGN (Linux 6.1): stx_dio_mem_align and stx_dio_offset_align."""
BIRTH_TIME = 0x800
"""The field of STATX_BTIME: stx_btime, in seconds and nanoseconds."""


def read_statx(int fd, uint32_t mask):
    """Two numbers of one of the masks above; None where kernel or file system don't say."""
    cdef uint8_t answer[STATX_BYTES]
    cdef uint32_t answered, nanoseconds
    cdef uint32_t alignment[2]
    cdef int64_t seconds
    if ringblk_statx(fd, AT_EMPTY_PATH, mask, &answer[0]) != 0:
        return None
    memcpy(&answered, &answer[MASK_OFFSET], sizeof(answered))
    if not answered & mask:
        return None
    if mask == DIO_ALIGN:
        memcpy(alignment, &answer[DIO_ALIGN_OFFSET], sizeof(alignment))
        return alignment[0], alignment[1]
    assert mask == BIRTH_TIME
    memcpy(&seconds, &answer[BIRTH_TIME_OFFSET], sizeof(seconds))
    memcpy(&nanoseconds, &answer[BIRTH_TIME_OFFSET + sizeof(seconds)], sizeof(nanoseconds))
    return seconds, nanoseconds
