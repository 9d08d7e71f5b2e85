# Descriptors that stay open in a socket's queue, whoever of those dies that have the socket (unix(7), SCM_RIGHTS).
#
# Each is a message of a number, a mark and one descriptor. Who looks at the first may get a copy of its descriptor; it
# goes when it is dropped. Nobody waits: -EAGAIN where there is no room, or nothing.

from libc.stdint cimport uint64_t

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
    struct ringblk_queued { uint64_t number, mark; };
    static inline int queue_descriptor(int socket_fd, const struct ringblk_queued *entry, int fd) {
        union { struct cmsghdr header; char space[CMSG_SPACE(sizeof(int))]; } control;
        struct iovec part = { (void *)entry, sizeof *entry };
        struct msghdr message;
        memset(&message, 0, sizeof message);
        memset(&control, 0, sizeof control);
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        message.msg_control = &control;
        message.msg_controllen = sizeof control.space;
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
        return sendmsg(socket_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
    }
    /* `fd`: where a copy of the descriptor goes, or NULL. */
    static inline int first_queued(int socket_fd, struct ringblk_queued *entry, int *fd) {
        union { struct cmsghdr header; char space[CMSG_SPACE(sizeof(int))]; } control;
        struct iovec part = { entry, sizeof *entry };
        struct msghdr message;
        ssize_t size;
        memset(&message, 0, sizeof message);
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        if (fd) {
            *fd = -1;
            message.msg_control = &control;
            message.msg_controllen = sizeof control.space;
        }
        size = recvmsg(socket_fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_PEEK);
        if (size != sizeof *entry && size != sizeof entry->number)   /* engines of before put no mark there */
            return size < 0 ? -errno : -EBADMSG;
        if (size == sizeof entry->number)
            entry->mark = 0;
        if (fd && message.msg_controllen >= CMSG_LEN(sizeof(int)))
            memcpy(fd, CMSG_DATA(&control.header), sizeof *fd);
        return 0;
    }
    static inline int drop_first(int socket_fd) {   /* with its descriptor, which nobody makes room for */
        struct ringblk_queued entry;
        struct iovec part = { &entry, sizeof entry };
        struct msghdr message;
        memset(&message, 0, sizeof message);
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        return recvmsg(socket_fd, &message, MSG_DONTWAIT) < 0 ? -errno : 0;
    }
    """
    struct QueuedDescriptor "ringblk_queued":
        uint64_t number
        uint64_t mark
    int queue_descriptor(int socket_fd, const QueuedDescriptor *entry, int fd)
    int first_queued(int socket_fd, QueuedDescriptor *entry, int *fd)
    int drop_first(int socket_fd)
