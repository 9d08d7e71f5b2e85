# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The two halves of a device kind, as the dispatcher and the pump know them.

A parser turns the copied chain of a slot into an operation with checked ranges; it runs in the dispatcher,
once a request. An executor carries the operation out from the slot alone. Block is the first kind
(workers/block/parser.pyx, workers/block/executor.pyx).
"""

from libc.stdint cimport uint32_t, uint64_t
from posix.uio cimport iovec

from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.workers.uring.ring cimport io_uring_sqe


cdef class RequestParser:
    """Turns chains into operations. Subclasses implement `prepare`."""

    cdef void prepare(self, uint32_t slot_index, int chain_flags) noexcept nogil:
        """Fill the slot's operation from its ranges; a bad request becomes OPERATION_COMPLETE with a status."""

    cdef uint64_t affected_bytes(self, RequestSlot *slot) noexcept nogil:
        """How many bytes of the drive the request is about; here, the length of its data."""
        return slot.length_bytes

    cdef bint overlaps(self, uint32_t slot_index, uint32_t other_index) noexcept nogil:
        """Whether two requests must not be under way together, because one changes a part of what the other does."""
        return False


cdef class RequestExecutor:
    """Carries operations out. Subclasses implement `execute` and `finish`."""

    cdef void execute(self, uint32_t slot_index) noexcept nogil:
        """Do the operation and set the slot's outcome."""

    cdef bint begin(self, uint32_t slot_index, io_uring_sqe *entry, iovec *vectors,
                    uint32_t vector_limit) noexcept nogil:
        """Fill an io_uring entry that does the operation, or return False: it must be executed here and now.

        `vectors` has room for `vector_limit` and stays until `end` is called.
        """
        return False

    cdef bint end(self, uint32_t slot_index, int result) noexcept nogil:
        """Set the outcome of an operation that was begun, from its completion.

        False: it failed or fell short. `execute` does it from the start: it continues short transfers, and
        knows the error.
        """
        return False

    cdef void finish(self, uint32_t slot_index) noexcept nogil:
        """Write what the driver reads of the slot's outcome (a status byte) into guest memory."""

    def take_error(self):
        """The negative errno of a host I/O error since the last call (0: none) and the slot it came from."""
        error, self.last_error = self.last_error, 0
        return error, self.last_error_slot
