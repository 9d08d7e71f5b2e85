# Named steps of the recovery protocols, where a test can end the process.
#
# Built as users build it, a crash point is nothing at all. Built with -DRINGBLK_CRASH_POINTS, a process that
# comes to the point planned in the file $RINGBLK_CRASH_FILE kills itself there. The file is mapped shared:
# the index of the planned death that is next (32 bits, padded to 64 bytes), then up to 8 of these: a countdown
# of 32 bits (die at the n-th passage) and the point's name, zero-terminated, in 60 bytes. A death makes the
# one after it the next, so that a successor can be killed in the middle of its recovery.

cdef extern from * nogil:
    """
    #ifdef RINGBLK_CRASH_POINTS
    #include <fcntl.h>
    #include <signal.h>
    #include <stdint.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/mman.h>
    #include <unistd.h>
    struct ringblk_death { int32_t countdown; char name[60]; };
    struct ringblk_crash_plan { uint32_t next; uint32_t reserved[15]; struct ringblk_death deaths[8]; };
    static struct ringblk_crash_plan *ringblk_crash_plan;
    /* As soon as the module is loaded: later the sandbox would not let it. */
    __attribute__((constructor)) static void ringblk_map_crash_plan(void) {
        const char *path = getenv("RINGBLK_CRASH_FILE");
        if (path) {
            int fd = open(path, O_RDWR | O_CLOEXEC);
            void *mapped = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *ringblk_crash_plan, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            if (fd >= 0)
                close(fd);
            if (mapped != MAP_FAILED)
                ringblk_crash_plan = mapped;
        }
    }
    static inline void crash_point(const char *name) {
        struct ringblk_crash_plan *plan = ringblk_crash_plan;
        uint32_t next = plan ? __atomic_load_n(&plan->next, __ATOMIC_ACQUIRE) : 8;
        struct ringblk_death *death = next < 8 ? &plan->deaths[next] : NULL;
        if (death && __atomic_load_n(&death->countdown, __ATOMIC_ACQUIRE) > 0 && strcmp(death->name, name) == 0
            && __atomic_sub_fetch(&death->countdown, 1, __ATOMIC_SEQ_CST) == 0) {
            __atomic_store_n(&plan->next, next + 1, __ATOMIC_SEQ_CST);
            kill(getpid(), SIGKILL);
        }
    }
    #else
    static inline void crash_point(const char *name) { (void)name; }
    #endif
    """
    void crash_point(const char *name)
