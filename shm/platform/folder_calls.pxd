# System calls on a shared folder, as they are: what they give, or a negative errno.
#
# Of Linux alone. Raw calls where C libraries are older than the kernel. One that the kernel lacks is -ENOSYS, and in the
# portable form all are: it has the types for who makes a file system in Python, and no folder of the host is shared.

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from posix.types cimport gid_t, mode_t, off_t, uid_t
from posix.uio cimport iovec

from ringblk.shm.platform.form cimport IS_LINUX

cdef extern from * nogil:
    r"""
    #if RINGBLK_LINUX
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <dirent.h>
    #include <errno.h>
    #include <fcntl.h>
    #include <linux/capability.h>
    #include <linux/openat2.h>
    #include <stdint.h>
    #include <stdio.h>
    #include <string.h>
    #include <sys/fsuid.h>
    #include <sys/stat.h>
    #include <sys/sysmacros.h>
    #include <sys/statfs.h>
    #include <sys/syscall.h>
    #include <sys/uio.h>
    #include <sys/xattr.h>
    #include <time.h>
    #include <unistd.h>
    #ifndef __NR_fchmodat2
    #define __NR_fchmodat2 452
    #endif
    #ifndef __NR_setxattrat
    #define __NR_setxattrat 463
    #define __NR_getxattrat 464
    #define __NR_listxattrat 465
    #define __NR_removexattrat 466
    #endif
    #define RINGBLK_HANDLE_LIMIT 128
    struct ringblk_wide_handle { struct file_handle head; unsigned char data[RINGBLK_HANDLE_LIMIT]; };
    struct ringblk_xattr_args { uint64_t value; uint32_t size; uint32_t flags; };
    static inline long outcome(long result) { return result < 0 ? -errno : result; }
    /* Where a name leads below a folder: never through a link, never to another mount. */
    static inline int open_name(int folder_fd, const char *name, uint64_t flags, uint32_t mode) {
        struct open_how how = { flags | O_CLOEXEC | O_NOFOLLOW, mode,
                                RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV };
        return (int)outcome(syscall(__NR_openat2, folder_fd, name, &how, sizeof how));
    }
    static inline int read_handle(int fd, void *data, uint32_t room, int32_t *type) {
        struct ringblk_wide_handle handle;
        int mount_id;
        handle.head.handle_bytes = room;
        if (name_to_handle_at(fd, "", &handle.head, &mount_id, AT_EMPTY_PATH) < 0)
            return -errno;
        memcpy(data, handle.head.f_handle, handle.head.handle_bytes);
        *type = handle.head.handle_type;
        return (int)handle.head.handle_bytes;
    }
    static inline int open_handle(int mount_fd, const void *data, uint32_t size, int32_t type, int flags) {
        struct ringblk_wide_handle handle;
        handle.head.handle_bytes = size;
        handle.head.handle_type = type;
        memcpy(handle.head.f_handle, data, size);
        return (int)outcome(open_by_handle_at(mount_fd, &handle.head, flags | O_CLOEXEC));
    }
    static inline int read_statx(int fd, struct statx *found)
        { return (int)outcome(statx(fd, "", AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS | STATX_BTIME, found)); }
    static inline int read_name_statx(int fd, const char *name, struct statx *found)
        { return (int)outcome(statx(fd, name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS | STATX_BTIME, found)); }
    static inline int64_t read_entries(int fd, void *buffer, size_t size)
        { return outcome(syscall(__NR_getdents64, fd, buffer, size)); }
    static inline int rename_name(int fd, const char *name, int other_fd, const char *other, uint32_t flags)
        { return (int)outcome(syscall(__NR_renameat2, fd, name, other_fd, other, flags)); }
    static inline int change_mode(int fd, uint32_t mode, int is_open) {
        return (int)outcome(is_open ? fchmod(fd, mode) : syscall(__NR_fchmodat2, fd, "", mode, AT_EMPTY_PATH));
    }
    static inline int change_owner(int fd, uint32_t uid, uint32_t gid)
        { return (int)outcome(fchownat(fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)); }
    static inline int change_times(int fd, const struct timespec *times)
        { return (int)outcome(utimensat(fd, "", times, AT_EMPTY_PATH)); }
    static inline int set_attribute(int fd, const char *name, const void *value, size_t size, uint32_t flags, int is_open) {
        struct ringblk_xattr_args args = { (uint64_t)(uintptr_t)value, (uint32_t)size, flags };
        return (int)outcome(is_open ? fsetxattr(fd, name, value, size, (int)flags)
                            : syscall(__NR_setxattrat, fd, "", AT_EMPTY_PATH, name, &args, sizeof args));
    }
    static inline int64_t get_attribute(int fd, const char *name, void *value, size_t room, int is_open) {
        struct ringblk_xattr_args args = { (uint64_t)(uintptr_t)value, (uint32_t)room, 0 };
        return outcome(is_open ? fgetxattr(fd, name, value, room)
                       : syscall(__NR_getxattrat, fd, "", AT_EMPTY_PATH, name, &args, sizeof args));
    }
    static inline int64_t list_attributes(int fd, char *list, size_t room, int is_open)
        { return outcome(is_open ? flistxattr(fd, list, room) : syscall(__NR_listxattrat, fd, "", AT_EMPTY_PATH, list, room)); }
    static inline int remove_attribute(int fd, const char *name, int is_open) {
        return (int)outcome(is_open ? fremovexattr(fd, name)
                            : syscall(__NR_removexattrat, fd, "", AT_EMPTY_PATH, name));
    }
    static inline int64_t read_parts(int fd, const struct iovec *parts, int count, int64_t offset)
        { return outcome(preadv(fd, parts, count, offset)); }
    static inline int64_t write_parts(int fd, const struct iovec *parts, int count, int64_t offset, int flags)
        { return outcome(pwritev2(fd, parts, count, offset, flags)); }
    /* Without it the kernel takes set-user-ID and set-group-ID off what is written to. */
    static inline int keep_set_id_right(int is_kept) {
        struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
        struct __user_cap_data_struct data[2];
        if (syscall(__NR_capget, &header, data) < 0)
            return -errno;
        if (is_kept)
            data[0].effective |= data[0].permitted & (1u << CAP_FSETID);
        else
            data[0].effective &= ~(1u << CAP_FSETID);
        return (int)outcome(syscall(__NR_capset, &header, data));
    }
    static inline int has_user_right(void) {
        struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
        struct __user_cap_data_struct data[2];
        return syscall(__NR_capget, &header, data) == 0 && data[0].effective & (1u << CAP_SETUID);
    }
    static inline void read_file_clock(int64_t *seconds, int64_t *nanoseconds) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME_COARSE, &now);
        *seconds = now.tv_sec;
        *nanoseconds = now.tv_nsec;
    }
    #define ringblk_statx statx
    #define ringblk_statx_timestamp statx_timestamp
    #define ringblk_statfs statfs
    #define ringblk_dirent64 dirent64
    #define ringblk_major gnu_dev_major
    #define ringblk_minor gnu_dev_minor
    #define ringblk_folder_mkdirat mkdirat
    #define ringblk_folder_mknodat mknodat
    #define ringblk_folder_unlinkat unlinkat
    #define ringblk_folder_symlinkat symlinkat
    #define ringblk_folder_linkat linkat
    #define ringblk_folder_readlinkat readlinkat
    #define ringblk_folder_fstatfs fstatfs
    #define ringblk_folder_ftruncate ftruncate
    #define ringblk_folder_fallocate fallocate
    #define ringblk_folder_fsync fsync
    #define ringblk_folder_fdatasync fdatasync
    #define ringblk_folder_syncfs syncfs
    #define ringblk_folder_lseek lseek
    #define ringblk_folder_copy_file_range copy_file_range
    #define ringblk_folder_setfsuid setfsuid
    #define ringblk_folder_setfsgid setfsgid
    #else
    #include <errno.h>
    #include <fcntl.h>
    #include <stdint.h>
    #include <sys/stat.h>
    #include <sys/types.h>
    #ifndef __APPLE__
    #include <sys/sysmacros.h>
    #endif
    #include <sys/uio.h>
    #include <time.h>
    #include <unistd.h>
    #ifndef STATX_BTIME
    #define STATX_BTIME 0x800U
    #endif
    #ifndef RWF_APPEND
    #define RWF_APPEND 0
    #endif
    #ifndef SEEK_HOLE
    #define SEEK_HOLE 4
    #endif
    /* What no call here makes use of. */
    #ifndef O_PATH
    #define O_PATH 0
    #endif
    #ifndef O_TMPFILE
    #define O_TMPFILE 0
    #endif
    #ifndef O_DIRECT
    #define O_DIRECT 0
    #endif
    #ifndef AT_EMPTY_PATH
    #define AT_EMPTY_PATH 0
    #endif
    #define ringblk_major major
    #define ringblk_minor minor
    struct ringblk_statx_timestamp { int64_t tv_sec; uint32_t tv_nsec; };
    struct ringblk_statx {
        uint32_t stx_mask, stx_blksize;
        uint64_t stx_attributes;
        uint32_t stx_nlink, stx_uid, stx_gid;
        uint16_t stx_mode;
        uint64_t stx_ino, stx_size, stx_blocks, stx_attributes_mask;
        struct ringblk_statx_timestamp stx_atime, stx_btime, stx_ctime, stx_mtime;
        uint32_t stx_rdev_major, stx_rdev_minor, stx_dev_major, stx_dev_minor;
    };
    struct ringblk_statfs { uint64_t f_type, f_blocks, f_bfree, f_bavail, f_files, f_ffree; long f_bsize, f_namelen, f_frsize; };
    struct ringblk_dirent64 { uint64_t d_ino; int64_t d_off; uint16_t d_reclen; uint8_t d_type; char d_name[256]; };
    #define RINGBLK_NO_CALL (errno = ENOSYS, -1)
    static inline long outcome(long result) { return result < 0 ? -errno : result; }
    static inline int open_name(int folder_fd, const char *name, uint64_t flags, uint32_t mode)
        { (void)folder_fd; (void)name; (void)flags; (void)mode; return -ENOSYS; }
    static inline int read_handle(int fd, void *data, uint32_t room, int32_t *type)
        { (void)fd; (void)data; (void)room; (void)type; return -ENOSYS; }
    static inline int open_handle(int mount_fd, const void *data, uint32_t size, int32_t type, int flags)
        { (void)mount_fd; (void)data; (void)size; (void)type; (void)flags; return -ENOSYS; }
    static inline int read_statx(int fd, struct ringblk_statx *found) { (void)fd; (void)found; return -ENOSYS; }
    static inline int read_name_statx(int fd, const char *name, struct ringblk_statx *found)
        { (void)fd; (void)name; (void)found; return -ENOSYS; }
    static inline int64_t read_entries(int fd, void *buffer, size_t size)
        { (void)fd; (void)buffer; (void)size; return -ENOSYS; }
    static inline int rename_name(int fd, const char *name, int other_fd, const char *other, uint32_t flags)
        { (void)fd; (void)name; (void)other_fd; (void)other; (void)flags; return -ENOSYS; }
    static inline int change_mode(int fd, uint32_t mode, int is_open) { (void)fd; (void)mode; (void)is_open; return -ENOSYS; }
    static inline int change_owner(int fd, uint32_t uid, uint32_t gid) { (void)fd; (void)uid; (void)gid; return -ENOSYS; }
    static inline int change_times(int fd, const struct timespec *times) { (void)fd; (void)times; return -ENOSYS; }
    static inline int set_attribute(int fd, const char *name, const void *value, size_t size, uint32_t flags, int is_open)
        { (void)fd; (void)name; (void)value; (void)size; (void)flags; (void)is_open; return -ENOSYS; }
    static inline int64_t get_attribute(int fd, const char *name, void *value, size_t room, int is_open)
        { (void)fd; (void)name; (void)value; (void)room; (void)is_open; return -ENOSYS; }
    static inline int64_t list_attributes(int fd, char *list, size_t room, int is_open)
        { (void)fd; (void)list; (void)room; (void)is_open; return -ENOSYS; }
    static inline int remove_attribute(int fd, const char *name, int is_open)
        { (void)fd; (void)name; (void)is_open; return -ENOSYS; }
    static inline int64_t read_parts(int fd, const struct iovec *parts, int count, int64_t offset)
        { (void)fd; (void)parts; (void)count; (void)offset; return -ENOSYS; }
    static inline int64_t write_parts(int fd, const struct iovec *parts, int count, int64_t offset, int flags)
        { (void)fd; (void)parts; (void)count; (void)offset; (void)flags; return -ENOSYS; }
    static inline int keep_set_id_right(int is_kept) { (void)is_kept; return -ENOSYS; }
    static inline int has_user_right(void) { return 0; }
    static inline void read_file_clock(int64_t *seconds, int64_t *nanoseconds) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        *seconds = now.tv_sec;
        *nanoseconds = now.tv_nsec;
    }
    static inline int ringblk_folder_mkdirat(int fd, const char *name, mode_t mode)
        { (void)fd; (void)name; (void)mode; return RINGBLK_NO_CALL; }
    static inline int ringblk_folder_mknodat(int fd, const char *name, mode_t mode, uint64_t device)
        { (void)fd; (void)name; (void)mode; (void)device; return RINGBLK_NO_CALL; }
    static inline int ringblk_folder_unlinkat(int fd, const char *name, int flags)
        { (void)fd; (void)name; (void)flags; return RINGBLK_NO_CALL; }
    static inline int ringblk_folder_symlinkat(const char *target, int fd, const char *name)
        { (void)target; (void)fd; (void)name; return RINGBLK_NO_CALL; }
    static inline int ringblk_folder_linkat(int fd, const char *name, int other_fd, const char *other, int flags)
        { (void)fd; (void)name; (void)other_fd; (void)other; (void)flags; return RINGBLK_NO_CALL; }
    static inline int ringblk_folder_readlinkat(int fd, const char *name, char *target, size_t room)
        { (void)fd; (void)name; (void)target; (void)room; return RINGBLK_NO_CALL; }
    static inline int ringblk_folder_fstatfs(int fd, struct ringblk_statfs *found)
        { (void)fd; (void)found; return RINGBLK_NO_CALL; }
    static inline int ringblk_folder_ftruncate(int fd, off_t size_bytes)
        { (void)fd; (void)size_bytes; return RINGBLK_NO_CALL; }
    static inline int ringblk_folder_fallocate(int fd, int mode, off_t offset_bytes, off_t size_bytes)
        { (void)fd; (void)mode; (void)offset_bytes; (void)size_bytes; return RINGBLK_NO_CALL; }
    static inline int ringblk_folder_fsync(int fd)
        { (void)fd; return RINGBLK_NO_CALL; }
    static inline int ringblk_folder_fdatasync(int fd)
        { (void)fd; return RINGBLK_NO_CALL; }
    static inline int ringblk_folder_syncfs(int fd)
        { (void)fd; return RINGBLK_NO_CALL; }
    static inline off_t ringblk_folder_lseek(int fd, off_t offset_bytes, int whence)
        { (void)fd; (void)offset_bytes; (void)whence; return RINGBLK_NO_CALL; }
    static inline long ringblk_folder_copy_file_range(int fd, off_t *offset, int other_fd, off_t *other_offset, size_t size,
                                                      unsigned flags)
        { (void)fd; (void)offset; (void)other_fd; (void)other_offset; (void)size; (void)flags; return RINGBLK_NO_CALL; }
    static inline int ringblk_folder_setfsuid(uid_t uid)
        { (void)uid; return RINGBLK_NO_CALL; }
    static inline int ringblk_folder_setfsgid(gid_t gid)
        { (void)gid; return RINGBLK_NO_CALL; }
    #endif
    /* An error's number as a guest has it, which is Linux. */
    #ifdef __APPLE__
    static inline int ringblk_guest_error(int error) {
        switch (error) {
        case EDEADLK: return 35;
        case EAGAIN: return 11;
        case EINPROGRESS: return 115;
        case ENOTSUP: case EOPNOTSUPP: return 95;
        case ETIMEDOUT: return 110;
        case ELOOP: return 40;
        case ENAMETOOLONG: return 36;
        case ENOTEMPTY: return 39;
        case EDQUOT: return 122;
        case ESTALE: return 116;
        case ENOLCK: return 37;
        case ENOSYS: return 38;
        case EOVERFLOW: return 75;
        case ECANCELED: return 125;
        case EILSEQ: return 84;
        case ENOATTR: case ENODATA: return 61;
        case EPROTO: return 71;
        default: return error <= 34 ? error : 5;  /* below they are the same; EIO */
        }
    }
    #else
    static inline int ringblk_guest_error(int error) { return error; }
    #endif
    """
    int guest_error "ringblk_guest_error"(int error)
    struct statx_timestamp "ringblk_statx_timestamp":
        int64_t tv_sec
        uint32_t tv_nsec
    struct statx "ringblk_statx":
        uint32_t stx_mask
        uint32_t stx_blksize
        uint64_t stx_attributes
        uint32_t stx_nlink
        uint32_t stx_uid
        uint32_t stx_gid
        unsigned short stx_mode
        uint64_t stx_ino
        uint64_t stx_size
        uint64_t stx_blocks
        uint64_t stx_attributes_mask
        statx_timestamp stx_atime
        statx_timestamp stx_btime
        statx_timestamp stx_ctime
        statx_timestamp stx_mtime
        uint32_t stx_rdev_major
        uint32_t stx_rdev_minor
        uint32_t stx_dev_major
        uint32_t stx_dev_minor
    struct timespec:
        int64_t tv_sec
        long tv_nsec
    struct statfs "ringblk_statfs":
        uint64_t f_type
        uint64_t f_blocks
        uint64_t f_bfree
        uint64_t f_bavail
        uint64_t f_files
        uint64_t f_ffree
        long f_bsize
        long f_namelen
        long f_frsize
    struct linux_dirent64 "ringblk_dirent64":
        uint64_t d_ino
        int64_t d_off
        unsigned short d_reclen
        unsigned char d_type
        char *d_name
    enum:
        STATX_BTIME
        UTIME_NOW
        UTIME_OMIT
        RWF_APPEND
        SEEK_HOLE
        S_IFMT
        S_IFREG
        S_IFDIR
        S_IFLNK
        S_IFSOCK
    long outcome(long result)
    int open_name(int folder_fd, const char *name, uint64_t flags, uint32_t mode)
    int read_handle(int fd, void *data, uint32_t room, int32_t *type)
    int open_handle(int mount_fd, const void *data, uint32_t size_bytes, int32_t type, int flags)
    int read_statx(int fd, statx *found)
    int read_name_statx(int fd, const char *name, statx *found)
    int64_t read_entries(int fd, void *buffer, size_t size_bytes)
    int rename_name(int fd, const char *name, int other_fd, const char *other, uint32_t flags)
    int change_mode(int fd, uint32_t mode, int is_open)
    int change_owner(int fd, uint32_t uid, uint32_t gid)
    int change_times(int fd, const timespec *times)
    int set_attribute(int fd, const char *name, const void *value, size_t size_bytes, uint32_t flags, int is_open)
    int64_t get_attribute(int fd, const char *name, void *value, size_t room_bytes, int is_open)
    int64_t list_attributes(int fd, char *list, size_t room_bytes, int is_open)
    int remove_attribute(int fd, const char *name, int is_open)
    int64_t read_parts(int fd, const iovec *parts, int count, int64_t offset_bytes)
    int64_t write_parts(int fd, const iovec *parts, int count, int64_t offset_bytes, int flags)
    int keep_set_id_right(int is_kept)
    bint has_user_right()
    void read_file_clock(int64_t *seconds, int64_t *nanoseconds)
    # As they are in the C library: -1 and errno.
    int mkdirat "ringblk_folder_mkdirat"(int fd, const char *name, mode_t mode)
    int mknodat "ringblk_folder_mknodat"(int fd, const char *name, mode_t mode, uint64_t device)
    int unlinkat "ringblk_folder_unlinkat"(int fd, const char *name, int flags)
    int symlinkat "ringblk_folder_symlinkat"(const char *target, int fd, const char *name)
    int linkat "ringblk_folder_linkat"(int fd, const char *name, int other_fd, const char *other, int flags)
    int readlinkat "ringblk_folder_readlinkat"(int fd, const char *name, char *target, size_t room_bytes)
    int fstatfs "ringblk_folder_fstatfs"(int fd, statfs *found)
    int ftruncate "ringblk_folder_ftruncate"(int fd, off_t size_bytes)
    int change_space "ringblk_folder_fallocate"(int fd, int mode, off_t offset_bytes, off_t size_bytes)
    int fsync "ringblk_folder_fsync"(int fd)
    int fdatasync "ringblk_folder_fdatasync"(int fd)
    int syncfs "ringblk_folder_syncfs"(int fd)
    off_t lseek "ringblk_folder_lseek"(int fd, off_t offset_bytes, int whence)
    long copy_file_range "ringblk_folder_copy_file_range"(int fd, off_t *offset_bytes, int other_fd, off_t *other_offset_bytes,
                                                          size_t size_bytes, unsigned flags)
    int setfsuid "ringblk_folder_setfsuid"(uid_t uid)
    int setfsgid "ringblk_folder_setfsgid"(gid_t gid)
    mode_t umask(mode_t mask)
    int close(int fd)
    uint64_t makedev(unsigned major, unsigned minor)
    unsigned major "ringblk_major" (uint64_t device)
    unsigned minor "ringblk_minor" (uint64_t device)
