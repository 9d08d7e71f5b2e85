# System calls on files and block devices that systems have in different forms: 0 or a count, or -1 and errno. Where a
# system has no such call, errno is EOPNOTSUPP.

from libc.stdint cimport uint64_t
from posix.types cimport off_t
from posix.uio cimport iovec

from ringblk.shm.platform.form cimport IS_LINUX

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <stdint.h>
    #include <sys/uio.h>
    #include <unistd.h>
    #if RINGBLK_LINUX
    #include <linux/falloc.h>
    #include <linux/fs.h>
    #include <sys/ioctl.h>
    static inline ssize_t storage_write_durably(int fd, const struct iovec *ranges, int count, off_t offset)
        { return pwritev2(fd, ranges, count, offset, RWF_DSYNC); }
    static inline int storage_sync(int fd) { return fdatasync(fd); }
    static inline int storage_punch(int fd, off_t offset, off_t size)
        { return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, size); }
    static inline int storage_zero(int fd, off_t offset, off_t size)
        { return fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, size); }
    static inline int storage_give_space(int fd, off_t offset, off_t size) { return fallocate(fd, 0, offset, size); }
    static inline int storage_device_discard(int fd, uint64_t offset, uint64_t size)
        { uint64_t range[2] = { offset, size }; return ioctl(fd, BLKDISCARD, range); }
    static inline int storage_device_zero(int fd, uint64_t offset, uint64_t size)
        { uint64_t range[2] = { offset, size }; return ioctl(fd, BLKZEROOUT, range); }
    #else
    static inline int ringblk_has_no_call(void) { errno = EOPNOTSUPP; return -1; }
    static inline ssize_t storage_write_durably(int fd, const struct iovec *ranges, int count, off_t offset)
        { (void)fd; (void)ranges; (void)count; (void)offset; return ringblk_has_no_call(); }
    #ifdef F_FULLFSYNC  /* macOS: fsync(2) leaves it in the disk's own cache */
    static inline int storage_sync(int fd) { return fcntl(fd, F_FULLFSYNC); }
    #else
    static inline int storage_sync(int fd) { return fsync(fd); }
    #endif
    #ifdef F_PUNCHHOLE
    static inline int storage_punch(int fd, off_t offset, off_t size) {
        struct fpunchhole hole = { 0, 0, offset, size };
        if (fcntl(fd, F_PUNCHHOLE, &hole) == 0)
            return 0;
        if (errno == EINVAL)  /* no whole blocks of the file system */
            errno = EOPNOTSUPP;
        return -1;
    }
    #else
    static inline int storage_punch(int fd, off_t offset, off_t size)
        { (void)fd; (void)offset; (void)size; return ringblk_has_no_call(); }
    #endif
    static inline int storage_zero(int fd, off_t offset, off_t size)
        { (void)fd; (void)offset; (void)size; return ringblk_has_no_call(); }
    static inline int storage_give_space(int fd, off_t offset, off_t size)
        { (void)fd; (void)offset; (void)size; return ringblk_has_no_call(); }
    static inline int storage_device_discard(int fd, uint64_t offset, uint64_t size)
        { (void)fd; (void)offset; (void)size; return ringblk_has_no_call(); }
    static inline int storage_device_zero(int fd, uint64_t offset, uint64_t size)
        { (void)fd; (void)offset; (void)size; return ringblk_has_no_call(); }
    #endif
    """
    ssize_t storage_write_durably(int fd, const iovec *ranges, int count, off_t offset_bytes)   # RWF_DSYNC
    int storage_sync(int fd)                                                  # fdatasync, F_FULLFSYNC
    int storage_punch(int fd, off_t offset_bytes, off_t size_bytes)
    int storage_zero(int fd, off_t offset_bytes, off_t size_bytes)
    int storage_give_space(int fd, off_t offset_bytes, off_t size_bytes)
    int storage_device_discard(int fd, uint64_t offset_bytes, uint64_t size_bytes)
    int storage_device_zero(int fd, uint64_t offset_bytes, uint64_t size_bytes)
