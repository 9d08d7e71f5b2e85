# Which form of this room is compiled: that of Linux, or the portable one, of calls that every Unix has.
#
# The portable form is what other systems get, and Linux if built with -DRINGBLK_PORTABLE. A file of this room with both
# forms takes IS_LINUX from here, and asks for RINGBLK_LINUX in its own C declarations.

cdef extern from * nogil:
    """
    #ifndef RINGBLK_LINUX
    #if defined(__linux__) && !defined(RINGBLK_PORTABLE)
    #define RINGBLK_LINUX 1
    #else
    #define RINGBLK_LINUX 0
    #endif
    #endif
    """
    enum: IS_LINUX "RINGBLK_LINUX"
