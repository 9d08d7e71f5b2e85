# The clock of every interval here: CLOCK_MONOTONIC, in nanoseconds, the same in all processes.

from libc.stdint cimport uint64_t

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <time.h>
    static inline uint64_t monotonic_ns(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    }
    """
    uint64_t monotonic_ns()
