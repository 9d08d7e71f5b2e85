# What a device kind consists of: a parser (in the dispatcher) and an executor (in the workers).

from libc.stdint cimport uint32_t, uint64_t

from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.workers.backends.asynchronous cimport AsyncForm

cdef enum:
    OPERATION_COMPLETE = 0    # nothing to carry out: the slot's status is its outcome

cdef enum Outcome:
    OUTCOME_DONE = 0          # the slot says what became of it
    OUTCOME_PENDING = 1       # it waits for somebody else: `reap` will name it

cdef enum SlotFlags:
    SLOT_DURABLE = 1          # on stable storage before it is done
    SLOT_PARTIAL = 2          # it changes a part of a block (engine/dispatcher/overlap_list.pyx)
    SLOT_BRIEF = 4            # as quick as the backend is: the dispatcher may carry it out itself
    SLOT_CHANGES = 8          # it changes what is stored
    SLOT_ADMITTED = 16        # set by the dispatcher: no request stands in its way any more
    SLOT_LET_GO = 32          # set by the dispatcher: whatever becomes of it, nobody is told (suspension.pyx)
    SLOT_IN_PLACE = 64        # it takes no time: the dispatcher carries it out itself, whoever does the others
    SLOT_LONG = 128           # it may take long: a worker is left to the others


cdef class RequestParser:
    cdef bint concludes                   # whether `conclude` is to be called
    cdef uint32_t first_queue_slots       # slots that are left to the first queue, whatever the others hold
    cdef void prepare(self, uint32_t slot_index, int chain_flags) noexcept nogil
    cdef uint64_t affected_bytes(self, RequestSlot *slot) noexcept nogil
    cdef void conclude(self, uint32_t slot_index) noexcept nogil
    cdef bint overlaps(self, uint32_t slot_index, uint32_t other_index) noexcept nogil


cdef class RequestExecutor:
    cdef readonly int last_error          # negative errno of the last host I/O error, until it is taken
    cdef readonly uint32_t last_error_slot
    cdef readonly int outcome_fd          # readable while `reap` finds something; -1: nothing is ever pending
    cdef int execute(self, uint32_t slot_index) noexcept nogil
    cdef void submit(self) noexcept nogil
    cdef bint has_outcomes(self) noexcept nogil
    cdef int reap(self) noexcept nogil
    cdef void fail(self, uint32_t slot_index) noexcept nogil
    cdef void finish(self, uint32_t slot_index) noexcept nogil
    cdef bint begin(self, uint32_t slot_index, AsyncForm form) noexcept nogil
    cdef bint end(self, uint32_t slot_index, int result) noexcept nogil
