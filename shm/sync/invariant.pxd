# What must hold whenever a slot or a chain changes hands, said in words and checked.
#
# Built as users build it, an invariant is nothing at all: its condition is not even compiled. Built with
# -DRINGBLK_INVARIANTS, a process in which one does not hold says so on stderr and ends with SIGABRT.
#
# A condition is about what this program alone writes. What a guest or a front end can write (rings, descriptors,
# in-flight records) is checked in every build, and never ends a process.

cdef extern from * nogil:
    """
    #ifdef RINGBLK_INVARIANTS
    #include <stdlib.h>
    #include <string.h>
    #include <sys/uio.h>
    static void ringblk_invariant_broken(const char *text) {
        struct iovec parts[] = {
            {(void *)"ringblk: this must hold and does not: ", 38}, {(void *)text, strlen(text)}, {(void *)"\\n", 1},
        };
        ssize_t written = writev(2, parts, 3);
        (void)written;
        abort();
    }
    #define invariant(holds, text) ((holds) ? (void)0 : ringblk_invariant_broken(text))
    #else
    #define invariant(holds, text) ((void)0)
    #endif
    """
    void invariant(bint holds, const char *text)
