# The messages of FUSE as they lie in guest memory: version 7.38, with STATX of 7.39 (linux/fuse.h, whose names these are).
# tests/workers/fs/test_wire.py holds them against the kernel's own header.

from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t


cdef packed struct fuse_attr:
    uint64_t ino
    uint64_t size
    uint64_t blocks
    uint64_t atime
    uint64_t mtime
    uint64_t ctime
    uint32_t atimensec
    uint32_t mtimensec
    uint32_t ctimensec
    uint32_t mode
    uint32_t nlink
    uint32_t uid
    uint32_t gid
    uint32_t rdev
    uint32_t blksize
    uint32_t flags


cdef packed struct fuse_kstatfs:
    uint64_t blocks
    uint64_t bfree
    uint64_t bavail
    uint64_t files
    uint64_t ffree
    uint32_t bsize
    uint32_t namelen
    uint32_t frsize
    uint32_t padding
    uint32_t[6] spare


cdef packed struct fuse_entry_out:
    uint64_t nodeid
    uint64_t generation
    uint64_t entry_valid
    uint64_t attr_valid
    uint32_t entry_valid_nsec
    uint32_t attr_valid_nsec
    fuse_attr attr


cdef packed struct fuse_forget_in:
    uint64_t nlookup


cdef packed struct fuse_forget_one:
    uint64_t nodeid
    uint64_t nlookup


cdef packed struct fuse_batch_forget_in:
    uint32_t count
    uint32_t dummy


cdef packed struct fuse_getattr_in:
    uint32_t getattr_flags
    uint32_t dummy
    uint64_t fh


cdef packed struct fuse_attr_out:
    uint64_t attr_valid
    uint32_t attr_valid_nsec
    uint32_t dummy
    fuse_attr attr


cdef packed struct fuse_mknod_in:
    uint32_t mode
    uint32_t rdev
    uint32_t umask
    uint32_t padding


cdef packed struct fuse_mkdir_in:
    uint32_t mode
    uint32_t umask


cdef packed struct fuse_rename_in:
    uint64_t newdir


cdef packed struct fuse_rename2_in:
    uint64_t newdir
    uint32_t flags
    uint32_t padding


cdef packed struct fuse_link_in:
    uint64_t oldnodeid


cdef packed struct fuse_setattr_in:
    uint32_t valid
    uint32_t padding
    uint64_t fh
    uint64_t size
    uint64_t lock_owner
    uint64_t atime
    uint64_t mtime
    uint64_t ctime
    uint32_t atimensec
    uint32_t mtimensec
    uint32_t ctimensec
    uint32_t mode
    uint32_t unused4
    uint32_t uid
    uint32_t gid
    uint32_t unused5


cdef packed struct fuse_open_in:
    uint32_t flags
    uint32_t open_flags


cdef packed struct fuse_create_in:
    uint32_t flags
    uint32_t mode
    uint32_t umask
    uint32_t open_flags


cdef packed struct fuse_open_out:
    uint64_t fh
    uint32_t open_flags
    uint32_t padding


cdef packed struct fuse_release_in:
    uint64_t fh
    uint32_t flags
    uint32_t release_flags
    uint64_t lock_owner


cdef packed struct fuse_flush_in:
    uint64_t fh
    uint32_t unused
    uint32_t padding
    uint64_t lock_owner


cdef packed struct fuse_read_in:
    uint64_t fh
    uint64_t offset
    uint32_t size
    uint32_t read_flags
    uint64_t lock_owner
    uint32_t flags
    uint32_t padding


cdef packed struct fuse_write_in:
    uint64_t fh
    uint64_t offset
    uint32_t size
    uint32_t write_flags
    uint64_t lock_owner
    uint32_t flags
    uint32_t padding


cdef packed struct fuse_write_out:
    uint32_t size
    uint32_t padding


cdef packed struct fuse_fsync_in:
    uint64_t fh
    uint32_t fsync_flags
    uint32_t padding


cdef packed struct fuse_setxattr_in:
    uint32_t size
    uint32_t flags
    uint32_t setxattr_flags
    uint32_t padding


cdef packed struct fuse_getxattr_in:
    uint32_t size
    uint32_t padding


cdef packed struct fuse_getxattr_out:
    uint32_t size
    uint32_t padding


cdef packed struct fuse_access_in:
    uint32_t mask
    uint32_t padding


cdef packed struct fuse_init_in:
    uint32_t major
    uint32_t minor
    uint32_t max_readahead
    uint32_t flags
    uint32_t flags2
    uint32_t[11] unused


cdef packed struct fuse_init_out:
    uint32_t major
    uint32_t minor
    uint32_t max_readahead
    uint32_t flags
    uint16_t max_background
    uint16_t congestion_threshold
    uint32_t max_write
    uint32_t time_gran
    uint16_t max_pages
    uint16_t map_alignment
    uint32_t flags2
    uint32_t[7] unused


cdef packed struct fuse_interrupt_in:
    uint64_t unique


cdef packed struct fuse_fallocate_in:
    uint64_t fh
    uint64_t offset
    uint64_t length
    uint32_t mode
    uint32_t padding


cdef packed struct fuse_in_header:
    uint32_t len
    uint32_t opcode
    uint64_t unique
    uint64_t nodeid
    uint32_t uid
    uint32_t gid
    uint32_t pid
    uint16_t total_extlen
    uint16_t padding


cdef packed struct fuse_out_header:
    uint32_t len
    int32_t error
    uint64_t unique


cdef packed struct fuse_dirent:
    uint64_t ino
    uint64_t off
    uint32_t namelen
    uint32_t type


cdef packed struct fuse_lseek_in:
    uint64_t fh
    uint64_t offset
    uint32_t whence
    uint32_t padding


cdef packed struct fuse_lseek_out:
    uint64_t offset


cdef packed struct fuse_copy_file_range_in:
    uint64_t fh_in
    uint64_t off_in
    uint64_t nodeid_out
    uint64_t fh_out
    uint64_t off_out
    uint64_t len
    uint64_t flags


cdef packed struct fuse_setupmapping_in:
    uint64_t fh
    uint64_t foffset
    uint64_t len
    uint64_t flags
    uint64_t moffset


cdef packed struct fuse_removemapping_in:
    uint32_t count


cdef packed struct fuse_removemapping_one:
    uint64_t moffset
    uint64_t len


cdef packed struct fuse_syncfs_in:
    uint64_t padding



cdef packed struct fuse_sx_time:
    int64_t tv_sec
    uint32_t tv_nsec
    int32_t __reserved


cdef packed struct fuse_statx:
    uint32_t mask
    uint32_t blksize
    uint64_t attributes
    uint32_t nlink
    uint32_t uid
    uint32_t gid
    uint16_t mode
    uint16_t[1] __spare0
    uint64_t ino
    uint64_t size
    uint64_t blocks
    uint64_t attributes_mask
    fuse_sx_time atime
    fuse_sx_time btime
    fuse_sx_time ctime
    fuse_sx_time mtime
    uint32_t rdev_major
    uint32_t rdev_minor
    uint32_t dev_major
    uint32_t dev_minor
    uint64_t[14] __spare2


cdef packed struct fuse_statx_in:
    uint32_t getattr_flags
    uint32_t reserved
    uint64_t fh
    uint32_t sx_flags
    uint32_t sx_mask


cdef packed struct fuse_statx_out:
    uint64_t attr_valid
    uint32_t attr_valid_nsec
    uint32_t flags
    uint64_t[2] spare
    fuse_statx stat
