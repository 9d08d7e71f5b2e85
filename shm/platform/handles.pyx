# cython: language_level=3
"""Whether files can be opened by their handles (open_by_handle_at(2))."""

import os

from libc.errno cimport EOPNOTSUPP, EOVERFLOW, EPERM, errno

from ringblk.shm.platform.form cimport IS_LINUX

cdef extern from * nogil:
    r"""
    #include <errno.h>
    #if RINGBLK_LINUX
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <fcntl.h>
    #include <unistd.h>
    static int ringblk_open_again(int fd, unsigned room) {
        struct { struct file_handle head; unsigned char data[128]; } handle;
        int mount_id, again;
        handle.head.handle_bytes = room;
        if (name_to_handle_at(fd, "", &handle.head, &mount_id, AT_EMPTY_PATH) < 0)
            return -1;
        again = open_by_handle_at(fd, &handle.head, O_PATH | O_CLOEXEC);
        return again < 0 ? -2 : close(again);
    }
    #else
    static int ringblk_open_again(int fd, unsigned room) { (void)fd; (void)room; errno = ENOSYS; return -1; }
    #endif
    """
    int ringblk_open_again(int fd, unsigned room)

LONGEST_HANDLE_BYTES = 44


def handle_fault(int folder_fd):
    """What is wrong with handles of what is in this folder; None if nothing is."""
    cdef int result = ringblk_open_again(folder_fd, LONGEST_HANDLE_BYTES)
    cdef int error = errno
    if result == 0:
        return None
    if result == -1 and error in (EOPNOTSUPP, EOVERFLOW):
        return "its file system has no file handles that are short enough: share a folder of ext4, xfs, btrfs or tmpfs"
    if result == -2 and error == EPERM:
        return "files are opened by their handles, which only root may (CAP_DAC_READ_SEARCH): start as root"
    return f"files cannot be opened by their handles: {os.strerror(error)}"
