# System calls on files and block devices that POSIX doesn't have. 0 or a count, or -1 and errno;
# where the host has no such call, errno is EOPNOTSUPP.

from libc.errno cimport ENOSYS, ENOTTY, EOPNOTSUPP
from libc.stdint cimport uint64_t
from posix.types cimport off_t
from posix.uio cimport iovec

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <stdint.h>
    #include <sys/uio.h>
    #include <unistd.h>
    #ifdef __linux__
    #include <linux/falloc.h>
    #include <linux/fs.h>
    #include <sys/ioctl.h>
    static inline ssize_t pwritev_durable(int fd, const struct iovec *ranges, int count, off_t offset)
        { return pwritev2(fd, ranges, count, offset, RWF_DSYNC); }
    static inline int sync_data(int fd)
        { return fdatasync(fd); }
    static inline int punch_hole(int fd, off_t offset, off_t size)
        { return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, size); }
    static inline int zero_range(int fd, off_t offset, off_t size)
        { return fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, size); }
    static inline int device_discard(int fd, uint64_t offset, uint64_t size)
        { uint64_t range[2] = { offset, size }; return ioctl(fd, BLKDISCARD, range); }
    static inline int device_zero(int fd, uint64_t offset, uint64_t size)
        { uint64_t range[2] = { offset, size }; return ioctl(fd, BLKZEROOUT, range); }
    #else
    static inline ssize_t pwritev_durable(int fd, const struct iovec *ranges, int count, off_t offset)
        { errno = EOPNOTSUPP; return -1; }
    static inline int sync_data(int fd)
    #ifdef F_FULLFSYNC
        { return fcntl(fd, F_FULLFSYNC); }
    #else
        { return fsync(fd); }
    #endif
    static inline int punch_hole(int fd, off_t offset, off_t size)
        { errno = EOPNOTSUPP; return -1; }
    static inline int zero_range(int fd, off_t offset, off_t size)
        { errno = EOPNOTSUPP; return -1; }
    static inline int device_discard(int fd, uint64_t offset, uint64_t size)
        { errno = EOPNOTSUPP; return -1; }
    static inline int device_zero(int fd, uint64_t offset, uint64_t size)
        { errno = EOPNOTSUPP; return -1; }
    #endif
    """
    ssize_t pwritev_durable(int fd, const iovec *ranges, int count, off_t offset_bytes)
    int sync_data(int fd)
    int punch_hole(int fd, off_t offset_bytes, off_t size_bytes)
    int zero_range(int fd, off_t offset_bytes, off_t size_bytes)
    int device_discard(int fd, uint64_t offset_bytes, uint64_t size_bytes)
    int device_zero(int fd, uint64_t offset_bytes, uint64_t size_bytes)


cdef inline bint is_unsupported(int error) noexcept nogil:
    """Whether a call's errno says that the file system or device has no such thing."""
    return error == EOPNOTSUPP or error == ENOSYS or error == ENOTTY
