# io_uring(7): its structures and calls. A system without it has structures to compile with, and calls that say so.

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ringblk.shm.platform.form cimport IS_LINUX

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <stdint.h>
    #include <sys/mman.h>
    #include <sys/uio.h>
    #if RINGBLK_LINUX
    #include <linux/io_uring.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    static inline int ringblk_uring_setup(unsigned entries, struct io_uring_params *params)
        { return (int)syscall(__NR_io_uring_setup, entries, params); }
    static inline int ringblk_uring_register(int fd, unsigned what, void *argument, unsigned count)
        { return (int)syscall(__NR_io_uring_register, fd, what, argument, count); }
    static inline int ringblk_uring_enter(int fd, unsigned to_submit, unsigned min_complete, unsigned flags)
        { return (int)syscall(__NR_io_uring_enter, fd, to_submit, min_complete, flags, NULL, 0); }
    static inline void ringblk_keep_from_forks(void *memory, size_t size) { madvise(memory, size, MADV_DONTFORK); }
    #else
    struct io_uring_sqe {
        uint8_t opcode, flags;
        uint16_t ioprio;
        int32_t fd;
        uint64_t off, addr;
        uint32_t len, fsync_flags;
        int rw_flags;
        uint64_t user_data;
    };
    struct io_uring_cqe { uint64_t user_data; int32_t res; uint32_t flags; };
    struct io_sqring_offsets { uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array; };
    struct io_cqring_offsets { uint32_t head, tail, ring_mask, ring_entries, overflow, cqes; };
    struct io_uring_params {
        uint32_t sq_entries, cq_entries, flags, features;
        struct io_sqring_offsets sq_off;
        struct io_cqring_offsets cq_off;
    };
    struct io_uring_restriction { uint16_t opcode; uint8_t sqe_op; };
    enum {
        IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_READ, IORING_OP_WRITE, IORING_OP_POLL_ADD,
        IORING_FSYNC_DATASYNC, IORING_FEAT_SINGLE_MMAP, IORING_ENTER_GETEVENTS, IORING_SETUP_SUBMIT_ALL,
        IORING_SETUP_COOP_TASKRUN, IORING_SETUP_TASKRUN_FLAG, IORING_SQ_TASKRUN, IORING_SETUP_R_DISABLED,
        IORING_REGISTER_RESTRICTIONS, IORING_REGISTER_ENABLE_RINGS, IORING_RESTRICTION_SQE_OP,
    };
    #define IORING_OFF_SQ_RING 0
    #define IORING_OFF_SQES 0
    #ifndef RWF_DSYNC
    #define RWF_DSYNC 0
    #endif
    static inline int ringblk_uring_setup(unsigned entries, struct io_uring_params *params)
        { (void)entries; (void)params; errno = ENOSYS; return -1; }
    static inline int ringblk_uring_register(int fd, unsigned what, void *argument, unsigned count)
        { (void)fd; (void)what; (void)argument; (void)count; errno = ENOSYS; return -1; }
    static inline int ringblk_uring_enter(int fd, unsigned to_submit, unsigned min_complete, unsigned flags)
        { (void)fd; (void)to_submit; (void)min_complete; (void)flags; errno = ENOSYS; return -1; }
    static inline void ringblk_keep_from_forks(void *memory, size_t size) { (void)memory; (void)size; }
    #endif
    """
    struct io_uring_sqe:
        uint8_t opcode
        uint8_t flags
        uint16_t ioprio
        int32_t fd
        uint64_t off
        uint64_t addr
        uint32_t len
        int rw_flags
        uint32_t fsync_flags
        uint64_t user_data
    struct io_uring_cqe:
        uint64_t user_data
        int32_t res
        uint32_t flags
    enum:
        IORING_OP_READV
        IORING_OP_WRITEV
        IORING_OP_FSYNC
        IORING_OP_READ
        IORING_OP_WRITE
        IORING_OP_POLL_ADD
        IORING_FSYNC_DATASYNC
        IORING_FEAT_SINGLE_MMAP
        IORING_ENTER_GETEVENTS
        IORING_SETUP_SUBMIT_ALL
        IORING_SETUP_COOP_TASKRUN
        IORING_SETUP_TASKRUN_FLAG
        IORING_SQ_TASKRUN
        IORING_SETUP_R_DISABLED
        IORING_REGISTER_RESTRICTIONS
        IORING_REGISTER_ENABLE_RINGS
        IORING_RESTRICTION_SQE_OP
        RWF_DSYNC
    struct io_sqring_offsets:
        uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array
    struct io_cqring_offsets:
        uint32_t head, tail, ring_mask, ring_entries, overflow, cqes
    struct io_uring_params:
        uint32_t sq_entries, cq_entries, flags, features
        io_sqring_offsets sq_off
        io_cqring_offsets cq_off
    struct io_uring_restriction:
        uint16_t opcode
        uint8_t sqe_op
    uint64_t IORING_OFF_SQ_RING
    uint64_t IORING_OFF_SQES
    int uring_setup "ringblk_uring_setup"(uint32_t entries, io_uring_params *params)
    int uring_register "ringblk_uring_register"(int fd, uint32_t what, void *argument, uint32_t count)
    int uring_enter "ringblk_uring_enter"(int fd, uint32_t to_submit, uint32_t min_complete, uint32_t flags)
    void keep_from_forks "ringblk_keep_from_forks"(void *memory, size_t size_bytes)   # a process forked later has none of it
