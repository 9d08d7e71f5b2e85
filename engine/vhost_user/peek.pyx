# cython: language_level=3
"""A look at what a unix stream socket holds, part by part as it was sent.

recvmsg(2) with MSG_PEEK gives the descriptors of the first part that has any, also where that lies beyond the
bytes that were asked for (unix_stream_read_generic in Linux). So it can't be told whose they are. It stops at
a part that it cannot copy, and keeps back the descriptors of that one. So a look here is given room for a
number of bytes, and after them one more byte that nothing can be copied to.
"""

import os

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EFAULT, errno
from libc.stdlib cimport free, malloc

from ringblk.shm.platform.socket_calls cimport mmsghdr   # and the flags of all systems

cdef extern from * nogil:
    """
    #include <string.h>
    #include <sys/socket.h>
    #define RINGBLK_PEEKED_FDS 253 /* SCM_MAX_FD */
    /* Bytes, or -1; the descriptors and whether some are missing. Address 0 takes no copy (mmap_min_addr). */
    static ssize_t ringblk_peek_parts(int fd, char *data, size_t size, int *fds, int *fd_count, int *is_cut) {
        union { struct cmsghdr header; char bytes[CMSG_SPACE(RINGBLK_PEEKED_FDS * sizeof(int))]; } rights;
        struct iovec room[2] = { { data, size }, { 0, 1 } };
        struct msghdr message = { .msg_iov = room, .msg_iovlen = 2, .msg_control = &rights,
                                  .msg_controllen = sizeof rights };
        struct cmsghdr *header;
        ssize_t length = recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
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
    """
    enum:
        PEEKED_FDS "RINGBLK_PEEKED_FDS"
    ssize_t ringblk_peek_parts(int fd, char *data, size_t size, int *fds, int *fd_count, int *is_cut)


def peek_parts(int socket_fd, size_t size_bytes):
    """The parts from SO_PEEK_OFF on that fit into so many bytes as a whole, up to the first with descriptors.

    Returns bytes, those descriptors, and whether some are missing; None where not even the first part fits.
    No bytes mean the connection's end. Raises `OSError`: `BlockingIOError` where nothing is there.
    """
    cdef int[PEEKED_FDS] fds
    cdef int count = 0, is_cut = 0, index
    cdef ssize_t length
    cdef char *data = <char *>malloc(size_bytes + 1)
    if data == NULL:
        raise MemoryError
    try:
        length = ringblk_peek_parts(socket_fd, data, size_bytes, fds, &count, &is_cut)
        if length < 0:
            if errno == EFAULT:
                return None
            raise OSError(errno, os.strerror(errno))
        return PyBytes_FromStringAndSize(data, length), [fds[index] for index in range(count)], bool(is_cut)
    finally:
        free(data)
