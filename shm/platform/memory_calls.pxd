# Shared memory given back to the system: it reads as zeroes from then on. 0, or -1 and errno, EOPNOTSUPP where there is no
# such call.

from ringblk.shm.platform.form cimport IS_LINUX

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <sys/mman.h>
    #if RINGBLK_LINUX
    static inline int ringblk_give_back(void *memory, size_t size) { return madvise(memory, size, MADV_REMOVE); }
    #else
    static inline int ringblk_give_back(void *memory, size_t size)
        { (void)memory; (void)size; errno = EOPNOTSUPP; return -1; }
    #endif
    """
    int give_back "ringblk_give_back"(void *memory, size_t size_bytes)
