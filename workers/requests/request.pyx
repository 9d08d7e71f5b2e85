# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The two halves of a device kind, as the dispatcher and the pump know them.

A parser turns the copied chain of a slot into an operation with checked ranges; it runs in the dispatcher,
once a request. An executor carries the operation out from the slot alone. Block is the first kind
(workers/block/parser.pyx, workers/block/executor.pyx).
"""

import os

from libc.stdint cimport uint32_t, uint64_t

from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.workers.backends.asynchronous cimport AsyncForm


cdef class RequestParser:
    """Turns chains into operations. Subclasses implement `prepare`."""

    cdef void prepare(self, uint32_t slot_index, int chain_flags) noexcept nogil:
        """Fill the slot's operation from its ranges; a bad request becomes OPERATION_COMPLETE with a status."""

    cdef uint64_t affected_bytes(self, RequestSlot *slot) noexcept nogil:
        """How many bytes of the drive the request is about; here, the length of its data."""
        return slot.length_bytes

    cdef void conclude(self, uint32_t slot_index) noexcept nogil:
        """Take note of an outcome, before the driver can see it; where `concludes` is set. After a death, maybe again."""

    cdef bint overlaps(self, uint32_t slot_index, uint32_t other_index) noexcept nogil:
        """Whether two requests must not be under way together, because one changes a part of what the other does."""
        return False


cdef class RequestExecutor:
    """Carries operations out. Subclasses implement `execute`, `fail` and `finish`.

    A request may be left *pending*: it waits for somebody else (a disk, a server, another request) and holds
    nobody up. It stays in flight, as does one that is being carried out: a queue that stops, a pause, a worker
    that retires, memory that is taken away wait for it; who dies with it leaves it to be done again from the
    start. An executor that leaves requests pending sets `outcome_fd` when it is made, and implements `submit`,
    `has_outcomes` and `reap`. Whoever runs it calls

    1. `execute` for each request of a batch, counting those that are pending;
    2. `submit` once after a batch in which some were;
    3. `reap` again and again until it returns -1, each time it comes round while something is pending;
    4. `has_outcomes` before it sleeps, and then waits for `outcome_fd` among others.

    All in one thread. `outcome_fd` may be waited for level-triggered or edge-triggered: it is readable from the
    moment at which there is an outcome to take, and not any more once `reap` has returned -1. A process that has
    nothing pending never looks at it.
    """

    def __cinit__(self):
        self.outcome_fd = -1

    cdef int execute(self, uint32_t slot_index) noexcept nogil:
        """Do the operation and set the slot's outcome: OUTCOME_DONE. Or only begin it: OUTCOME_PENDING."""
        return OUTCOME_DONE

    cdef void submit(self) noexcept nogil:
        """Let what `execute` has left pending since the last call go its way, if it has not yet."""

    cdef bint has_outcomes(self) noexcept nogil:
        """Whether `reap` would find something. Asked often while something is pending: no system call."""
        return False

    cdef int reap(self) noexcept nogil:
        """The slot of a pending request whose outcome is set now, or -1: there is none at the moment."""
        return -1

    cdef bint begin(self, uint32_t slot_index, AsyncForm form) noexcept nogil:
        """Begin the operation on `form`, with the slot's index as its tag, or return False: it must be executed."""
        return False

    cdef bint end(self, uint32_t slot_index, int result) noexcept nogil:
        """Set the outcome of an operation that was begun, from the form's. False: `execute` has to do it anew."""
        return False

    cdef void fail(self, uint32_t slot_index) noexcept nogil:
        """Set the outcome of a request that is given up and not carried out."""

    cdef void finish(self, uint32_t slot_index) noexcept nogil:
        """Write what the driver reads of the slot's outcome (a status byte) into guest memory."""

    def set_backend_channel(self, int fd, bint is_new, bint is_legacy):
        """A channel for messages to the front end, which is this executor's from now on; `is_new`: it was not there before.

        `is_legacy` (of a new one): its front end does not know shared memory of devices but the older form of it.

        In a dispatcher, where the device has shared memory of its own (`DeviceFace.window_bytes`).
        """
        os.close(fd)

    def hurry(self):
        """Somebody waits for all that is in flight: leave nothing pending that depends on the front end."""

    def take_error(self):
        """The negative errno of a host I/O error since the last call (0: none) and the slot it came from."""
        error, self.last_error = self.last_error, 0
        return error, self.last_error_slot
