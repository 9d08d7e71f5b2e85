# System calls on files and block devices. 0 or a count, or -1 and errno; where the host has no such call,
# errno is EOPNOTSUPP.
#
# All that changes a file passes here: what writes through io_uring excepted. Built with -DRINGBLK_RECORD, each call
# leaves two records in the file $RINGBLK_RECORD, one as it begins and one as it ends, of which a test makes the states
# that a power failure may leave (engine/crashes/record_form.py has their form). Built as users build it, that is
# nothing at all.

from libc.errno cimport ENOSYS, ENOTTY, EOPNOTSUPP
from libc.stdint cimport uint64_t
from posix.types cimport off_t
from posix.uio cimport iovec

from ringblk.shm.platform.storage_calls cimport storage_sync

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/uio.h>
    #include <unistd.h>
    #ifdef RINGBLK_RECORD
    #include <stdlib.h>
    #include <sys/stat.h>
    enum { RINGBLK_END, RINGBLK_WRITE, RINGBLK_WRITE_DURABLY, RINGBLK_ZERO, RINGBLK_FLUSH };
    struct ringblk_record { uint32_t kind, pid; uint64_t inode, offset, size; };
    static int ringblk_record_fd = -1;
    __attribute__((constructor)) static void ringblk_open_record(void) {
        const char *path = getenv("RINGBLK_RECORD");
        if (path)
            ringblk_record_fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    }
    static void ringblk_record(uint32_t kind, int fd, const struct iovec *ranges, int count, uint64_t offset, uint64_t size) {
        struct iovec parts[1025];
        struct stat info;
        int error = errno;
        if (ringblk_record_fd < 0 || count > 1024 || fstat(fd, &info) != 0)
            return;
        struct ringblk_record record = { kind, (uint32_t)getpid(), (uint64_t)info.st_ino, offset, size };
        for (int index = 0; index < count; index++) {
            parts[index + 1] = ranges[index];
            record.size += ranges[index].iov_len;
        }
        parts[0].iov_base = &record;
        parts[0].iov_len = sizeof record;
        if (writev(ringblk_record_fd, parts, count + 1) < 0)
            abort();
        errno = error;
    }
    #define RINGBLK_RECORDED(kind, fd, ranges, count, offset, size, call) __extension__ ({ \\
        ringblk_record(kind, fd, ranges, count, offset, size); \\
        __typeof__(call) result = call; \\
        ringblk_record(RINGBLK_END, fd, NULL, 0, 0, (uint64_t)(int64_t)result); \\
        result; })
    #else
    #define RINGBLK_RECORDED(kind, fd, ranges, count, offset, size, call) call
    #endif
    static inline ssize_t write_ranges(int fd, const struct iovec *ranges, int count, off_t offset)
        { return RINGBLK_RECORDED(RINGBLK_WRITE, fd, ranges, count, offset, 0, pwritev(fd, ranges, count, offset)); }
    static inline ssize_t write_ranges_durably(int fd, const struct iovec *ranges, int count, off_t offset)
        { return RINGBLK_RECORDED(RINGBLK_WRITE_DURABLY, fd, ranges, count, offset, 0,
                                  storage_write_durably(fd, ranges, count, offset)); }
    static inline int sync_data(int fd)
        { return RINGBLK_RECORDED(RINGBLK_FLUSH, fd, NULL, 0, 0, 0, storage_sync(fd)); }
    static inline int punch_hole(int fd, off_t offset, off_t size)
        { return RINGBLK_RECORDED(RINGBLK_ZERO, fd, NULL, 0, offset, size, storage_punch(fd, offset, size)); }
    static inline int zero_range(int fd, off_t offset, off_t size)
        { return RINGBLK_RECORDED(RINGBLK_ZERO, fd, NULL, 0, offset, size, storage_zero(fd, offset, size)); }
    static inline int give_space(int fd, off_t offset, off_t size)
        { return storage_give_space(fd, offset, size); }
    static inline int device_discard(int fd, uint64_t offset, uint64_t size)
        { return storage_device_discard(fd, offset, size); }
    static inline int device_zero(int fd, uint64_t offset, uint64_t size)
        { return storage_device_zero(fd, offset, size); }
    static inline int lock_for_writing(int fd, int is_wanted) {
        struct flock lock;
        memset(&lock, 0, sizeof lock);
        lock.l_type = is_wanted ? F_WRLCK : F_UNLCK;
        lock.l_whence = SEEK_SET;
        lock.l_len = 1;
        return fcntl(fd, F_SETLKW, &lock);
    }
    """
    ssize_t write_ranges(int fd, const iovec *ranges, int count, off_t offset_bytes)
    ssize_t write_ranges_durably(int fd, const iovec *ranges, int count, off_t offset_bytes)
    int sync_data(int fd)
    int punch_hole(int fd, off_t offset_bytes, off_t size_bytes)
    int zero_range(int fd, off_t offset_bytes, off_t size_bytes)
    int give_space(int fd, off_t offset_bytes, off_t size_bytes)   # to a hole, or past the end: a write there finds room
    int device_discard(int fd, uint64_t offset_bytes, uint64_t size_bytes)
    int device_zero(int fd, uint64_t offset_bytes, uint64_t size_bytes)
    # The lock of a process (fcntl(2), "Traditional record locks"): it ends with it. Waits for who has it.
    int lock_for_writing(int fd, bint is_wanted)


cdef inline bint is_unsupported(int error) noexcept nogil:
    """Whether a call's errno says that the file system or device has no such thing."""
    return error == EOPNOTSUPP or error == ENOSYS or error == ENOTTY
