# Which cores a process may run on. A system without the call leaves it where it is: `hold_to_cpus` says no.

from ringblk.shm.platform.form cimport IS_LINUX

cdef extern from * nogil:
    """
    #if RINGBLK_LINUX
    #include <sched.h>
    static inline int ringblk_hold_to_cpus(const int *cpus, unsigned count) {
        cpu_set_t chosen;
        CPU_ZERO(&chosen);
        for (unsigned index = 0; index < count; index++)
            CPU_SET(cpus[index], &chosen);
        return sched_setaffinity(0, sizeof chosen, &chosen) == 0;
    }
    #else
    static inline int ringblk_hold_to_cpus(const int *cpus, unsigned count) { (void)cpus; (void)count; return 0; }
    #endif
    """
    bint hold_to_cpus "ringblk_hold_to_cpus"(const int *cpus, unsigned count)   # whether this thread is held to them now
