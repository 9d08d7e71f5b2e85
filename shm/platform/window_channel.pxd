# A back end's messages about its shared memory, on the channel that its front end has given it, and the answers
# (vhost-user, "Back-end message types": SHMEM_MAP, SHMEM_UNMAP). Front ends that know nothing of those may know the form that
# was there before: FS_MAP and FS_UNMAP, four arrays of eight, the first of each in use here. Nobody waits: -EAGAIN where there is no room, or nothing.

from libc.stdint cimport uint32_t, uint64_t, uint8_t

cdef extern from * nogil:
    r"""
    #include <errno.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/socket.h>
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0
    #endif
    #ifndef MSG_CMSG_CLOEXEC
    #define MSG_CMSG_CLOEXEC 0
    #endif
    #include <sys/uio.h>
    enum { RINGBLK_FS_MAP = 6, RINGBLK_FS_UNMAP = 7, RINGBLK_SHMEM_MAP = 9, RINGBLK_SHMEM_UNMAP = 10, RINGBLK_VERSION = 1,
           RINGBLK_NEED_REPLY = 8, RINGBLK_MAP_RW = 1, RINGBLK_FS_READ = 1, RINGBLK_FS_WRITE = 2, RINGBLK_FS_ENTRIES = 8 };
    struct __attribute__((packed)) ringblk_mapping {
        uint32_t request, flags, size;
        union {
            struct __attribute__((packed)) {
                uint8_t shmid, padding[7];
                uint64_t fd_offset, shm_offset, len, map_flags;
            } shmem;
            struct __attribute__((packed)) {
                uint64_t fd_offset[RINGBLK_FS_ENTRIES], shm_offset[RINGBLK_FS_ENTRIES], len[RINGBLK_FS_ENTRIES];
                uint64_t map_flags[RINGBLK_FS_ENTRIES];
            } fs;
        };
    };
    /* The two forms of the message. */
    static inline void encode_shmem(struct ringblk_mapping *mapping, int is_map, uint64_t fd_offset, uint64_t shm_offset,
                                    uint64_t len) {
        mapping->request = is_map ? RINGBLK_SHMEM_MAP : RINGBLK_SHMEM_UNMAP;
        mapping->size = sizeof mapping->shmem;
        mapping->shmem.fd_offset = fd_offset;
        mapping->shmem.shm_offset = shm_offset;
        mapping->shmem.len = len;
        mapping->shmem.map_flags = is_map ? RINGBLK_MAP_RW : 0;
    }
    static inline void encode_fs(struct ringblk_mapping *mapping, int is_map, uint64_t fd_offset, uint64_t shm_offset,
                                 uint64_t len) {
        mapping->request = is_map ? RINGBLK_FS_MAP : RINGBLK_FS_UNMAP;
        mapping->size = sizeof mapping->fs;
        mapping->fs.fd_offset[0] = fd_offset;
        mapping->fs.shm_offset[0] = shm_offset;
        mapping->fs.len[0] = len;   /* entries without a length are none */
        mapping->fs.map_flags[0] = is_map ? RINGBLK_FS_READ | RINGBLK_FS_WRITE : 0;
    }
    static inline int send_mapping(int channel_fd, int is_legacy, int fd, int is_map, uint64_t fd_offset, uint64_t shm_offset,
                                   uint64_t len) {
        struct ringblk_mapping mapping;
        union { struct cmsghdr header; char space[CMSG_SPACE(sizeof(int))]; } control;
        struct iovec part;
        struct msghdr message;
        ssize_t sent;
        memset(&mapping, 0, sizeof mapping);
        mapping.flags = RINGBLK_VERSION | RINGBLK_NEED_REPLY;
        (is_legacy ? encode_fs : encode_shmem)(&mapping, is_map, fd_offset, shm_offset, len);
        part.iov_base = &mapping;
        part.iov_len = 3 * sizeof(uint32_t) + mapping.size;
        memset(&message, 0, sizeof message);
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        if (is_map) {
            memset(&control, 0, sizeof control);
            message.msg_control = &control;
            message.msg_controllen = sizeof control.space;
            control.header.cmsg_level = SOL_SOCKET;
            control.header.cmsg_type = SCM_RIGHTS;
            control.header.cmsg_len = CMSG_LEN(sizeof(int));
            memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
        }
        sent = sendmsg(channel_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0)
            return -errno;
        return (size_t)sent == part.iov_len ? 0 : -EPIPE;
    }
    /* 1: an answer; 0: not all of one yet. `have` bytes of it are in `answer`. */
    static inline int receive_answer(int channel_fd, uint8_t *answer, uint32_t *have, uint64_t *value) {
        struct iovec part = { answer + *have, 20 - *have };
        struct msghdr message;
        ssize_t received;
        memset(&message, 0, sizeof message);
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        received = recvmsg(channel_fd, &message, MSG_DONTWAIT);
        if (received <= 0)
            return received < 0 ? -errno : -EPIPE;
        *have += (uint32_t)received;
        if (*have < 20)
            return 0;
        *have = 0;
        memcpy(value, answer + 12, sizeof *value);
        return 1;
    }
    """
    int send_mapping(int channel_fd, bint is_legacy, int fd, bint is_map, uint64_t fd_offset_bytes,
                     uint64_t window_offset_bytes, uint64_t length_bytes)
    int receive_answer(int channel_fd, uint8_t *answer, uint32_t *have_bytes, uint64_t *value)
