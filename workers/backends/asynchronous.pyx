# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The asynchronous form of a backend: who asks does not wait, and has many requests under way at once."""

from libc.errno cimport EOPNOTSUPP


cdef class AsyncForm:
    """Begins requests and says when they are done. One process and one thread use it; subclasses implement all four.

    Whoever uses it calls `begin` for each request of a batch, `submit` once after it, `reap` until that finds
    nothing more, and `has_outcomes` before it waits for `ready_fd`. That is readable from the moment at which
    there is an outcome to take, and not any more once `reap` has found nothing.

    Requests are done in any order: who needs one waits for the other before it begins. What a process that dies
    had begun may still land; `NativeBackend.is_fenced` says when it cannot any more.
    """

    def __cinit__(self):
        self.ready_fd = -1

    cdef int begin(self, const StorageRequest *request) noexcept nogil:
        """Begin a request: 0, and `reap` will give its tag once. Nothing is waited for.

        The list of ranges is the caller's again when this returns; the memory that it names stays until the
        outcome was taken. Any number may be under way. -EOPNOTSUPP: this one is for the blocking form; any
        other negative errno: it has failed.
        """
        return -EOPNOTSUPP

    cdef bint submit(self) noexcept nogil:
        """Let go its way what was begun, if it has not yet. True: some of it has to be submitted again."""
        return False

    cdef bint has_outcomes(self) noexcept nogil:
        """Whether `reap` would find something. Asked often: no system call."""
        return False

    cdef bint reap(self, StorageOutcome *outcome) noexcept nogil:
        """Take one outcome; False where there is none at the moment."""
        return False
