# poll(2), and what it says of an end that is closed at the other side.

from ringblk.shm.platform.form cimport IS_LINUX

cdef extern from * nogil:
    """
    #include <poll.h>
    #if RINGBLK_LINUX
    #define RINGBLK_HANG_UP POLLRDHUP  /* POLLHUP as well, which is told of always */
    #else
    #define RINGBLK_HANG_UP 0
    #endif
    """
    struct pollfd:
        int fd
        short events, revents
    enum:
        POLLIN
        POLLOUT
        HANG_UP "RINGBLK_HANG_UP"   # to be asked for where nothing but the other end's going is wanted
    int poll(pollfd *waited, unsigned long count, int timeout_ms)
