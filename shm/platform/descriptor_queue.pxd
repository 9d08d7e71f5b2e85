# Descriptors that stay open in a socket's queue, whoever of those dies that have the socket (unix(7), SCM_RIGHTS).
#
# Each is a message of one number and one descriptor. Who looks at the first gets a copy of its descriptor; it goes when
# it is taken. Nobody waits: -EAGAIN where there is no room, or nothing.

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
    static inline int queue_descriptor(int socket_fd, uint64_t number, int fd) {
        union { struct cmsghdr header; char space[CMSG_SPACE(sizeof(int))]; } control;
        struct iovec part = { &number, sizeof number };
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
    static inline int first_descriptor(int socket_fd, uint64_t *number, int *fd, int is_taken) {
        union { struct cmsghdr header; char space[CMSG_SPACE(sizeof(int))]; } control;
        struct iovec part = { number, sizeof *number };
        struct msghdr message;
        memset(&message, 0, sizeof message);
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        message.msg_control = &control;
        message.msg_controllen = sizeof control.space;
        *fd = -1;
        if (recvmsg(socket_fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC | (is_taken ? 0 : MSG_PEEK)) != sizeof *number)
            return errno ? -errno : -EBADMSG;
        if (message.msg_controllen >= CMSG_LEN(sizeof(int)))
            memcpy(fd, CMSG_DATA(&control.header), sizeof *fd);
        return 0;
    }
    """
    int queue_descriptor(int socket_fd, uint64_t number, int fd)
    int first_descriptor(int socket_fd, uint64_t *number, int *fd, bint is_taken)
