# What systems call the same on sockets, or do without. SIGPIPE is ignored (Python sees to that), so MSG_NOSIGNAL may be nothing.

from ringblk.shm.platform.form cimport IS_LINUX

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <stddef.h>
    #include <sys/socket.h>
    #ifndef MSG_CMSG_CLOEXEC
    #define MSG_CMSG_CLOEXEC 0
    #endif
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0
    #endif
    #if RINGBLK_LINUX
    static inline int ringblk_send_marked(int fd, struct mmsghdr *header)
        { return sendmmsg(fd, header, 1, MSG_DONTWAIT | MSG_NOSIGNAL); }
    #else
    #ifndef __linux__
    struct mmsghdr { struct msghdr msg_hdr; unsigned int msg_len; };
    #endif
    static inline int ringblk_send_marked(int fd, struct mmsghdr *header)
        { (void)fd; (void)header; errno = ENOSYS; return -1; }
    #endif
    #define RINGBLK_SENT_OFFSET offsetof(struct mmsghdr, msg_len)
    """
    enum: SENT_OFFSET "RINGBLK_SENT_OFFSET"   # where in its header a message's sent bytes are noted
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    int send_marked "ringblk_send_marked"(int fd, mmsghdr *header)   # sendmmsg(2) of one; -1 and errno
