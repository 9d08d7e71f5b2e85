# Datagrams with descriptors on a unix socket, for code that leaves the interpreter alone.

from ringblk.shm.platform.socket_calls cimport mmsghdr   # and the flags of all systems

cdef extern from * nogil:
    """
    #include <string.h>
    #include <sys/socket.h>
    #include <sys/uio.h>
    #define RINGBLK_FD_LIMIT 253 /* SCM_MAX_FD */
    /* A datagram and its descriptors; their number may be larger than what came (MSG_CTRUNC). */
    static ssize_t ringblk_receive(int fd, void *data, size_t size, int *fds, int *fd_count, int *is_cut) {
        union { struct cmsghdr header; char bytes[CMSG_SPACE(RINGBLK_FD_LIMIT * sizeof(int))]; } ancillary;
        struct iovec part = { data, size };
        struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &ancillary,
                                  .msg_controllen = sizeof ancillary };
        struct cmsghdr *header;
        ssize_t length = recvmsg(fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        *fd_count = 0;
        *is_cut = 0;
        if (length < 0)
            return length;
        *is_cut = !!(message.msg_flags & MSG_CTRUNC);
        for (header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header))
            if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
                *fd_count = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
                memcpy(fds, CMSG_DATA(header), *fd_count * sizeof(int));
            }
        return length;
    }
    static ssize_t ringblk_send(int fd, const void *data, size_t size, int sent_fd) {
        union { struct cmsghdr header; char bytes[CMSG_SPACE(sizeof(int))]; } ancillary;
        struct iovec part = { (void *)data, size };
        struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
        if (sent_fd >= 0) {
            message.msg_control = &ancillary;
            message.msg_controllen = sizeof ancillary;
            ancillary.header.cmsg_level = SOL_SOCKET;
            ancillary.header.cmsg_type = SCM_RIGHTS;
            ancillary.header.cmsg_len = CMSG_LEN(sizeof(int));
            memcpy(CMSG_DATA(&ancillary.header), &sent_fd, sizeof(int));
        }
        return sendmsg(fd, &message, MSG_NOSIGNAL);
    }
    static char ringblk_peeked;
    static ssize_t ringblk_peek(int fd) { return recv(fd, &ringblk_peeked, 1, MSG_PEEK | MSG_DONTWAIT); }
    """
    enum:
        ETOOMANYREFS
        FD_LIMIT "RINGBLK_FD_LIMIT"
    ssize_t ringblk_receive(int fd, void *data, size_t size_bytes, int *fds, int *fd_count, int *is_cut)
    ssize_t ringblk_send(int fd, const void *data, size_t size_bytes, int sent_fd)
    ssize_t ringblk_peek(int fd)
