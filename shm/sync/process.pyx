# cython: language_level=3
"""What a child process asks of the kernel about itself."""

import os

from libc.errno cimport errno
from libc.signal cimport SIG_IGN, SIGKILL, signal

from ringblk.shm.sync.crash_point cimport crash_point as c_crash_point

cdef extern from *:
    """
    #ifdef __linux__
    #include <sys/prctl.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #ifndef __NR_pidfd_getfd
    #define __NR_pidfd_getfd 438
    #endif
    static int ringblk_pidfd_getfd(int pidfd, int fd) { return (int)syscall(__NR_pidfd_getfd, pidfd, fd, 0); }
    static int ringblk_die_with_parent(int signal) { return prctl(PR_SET_PDEATHSIG, signal); }
    static int ringblk_set_name(const char *name) { return prctl(PR_SET_NAME, name); }
    static int ringblk_dies_with_parent(void) { int signal = 0; prctl(PR_GET_PDEATHSIG, &signal); return signal; }
    #else
    #include <errno.h>
    static int ringblk_pidfd_getfd(int pidfd, int fd) { (void)pidfd; (void)fd; errno = ENOSYS; return -1; }
    static int ringblk_die_with_parent(int signal) { (void)signal; return 0; }
    static int ringblk_set_name(const char *name) { (void)name; return 0; }
    static int ringblk_dies_with_parent(void) { return 0; }
    #endif
    """
    int ringblk_die_with_parent(int signal)
    int ringblk_set_name(const char *name)
    int ringblk_dies_with_parent()
    int ringblk_pidfd_getfd(int pidfd, int fd)


def die_with_parent(parent_pid: int) -> bool:
    """Have the kernel kill this process when its parent ends; False when that has happened already.

    Only where the kernel can do it (Linux).
    """
    ringblk_die_with_parent(SIGKILL)
    return os.getppid() == parent_pid


def dies_with_parent() -> bool:
    """Whether the kernel sends this process a signal when its parent ends (PR_SET_PDEATHSIG)."""
    return ringblk_dies_with_parent() != 0


def ignore_signal(number: int) -> None:
    """Have the kernel drop this signal, whoever catches it in Python.

    In a forked child this is lighter than `signal.signal`, which writes to many pages shared with the parent.
    """
    signal(number, SIG_IGN)


def set_process_name(name: str) -> None:
    """Show this name (15 characters of it) in process listings."""
    ringblk_set_name(name.encode()[:15])


def copy_fd_of(pidfd: int, fd: int) -> int:
    """A copy of a descriptor of another process (pidfd_getfd(2)). Raises `OSError`."""
    cdef int copy = ringblk_pidfd_getfd(pidfd, fd)
    if copy < 0:
        raise OSError(errno, os.strerror(errno))
    return copy


def crash_point(name: str) -> None:
    """A named step where a test can end this process; nothing but a call as users build it (crash_point.pxd)."""
    c_crash_point(name.encode())
