from libc.stdint cimport uint32_t, uint64_t

from ringblk.workers.backends.asynchronous cimport StorageOutcome, StorageRequest
from ringblk.workers.nbd.command cimport CommandList, NbdCommand

cdef struct Place:
    # A request, in one or more commands.
    uint64_t tag
    uint32_t left             # commands that are not done
    int error                 # of the first that failed
    bint needs_flush          # once they are done, a flush is to follow
    uint32_t next             # in a list of places


cdef class NbdRequests:
    cdef CommandList waiting          # for a connection
    cdef uint32_t under_way           # requests that were begun and whose outcome was not taken
    cdef uint64_t maximum_bytes
    cdef bint can_flush, can_fua, can_trim, can_zero
    cdef CommandList free_commands
    cdef Place *places
    cdef uint32_t place_count
    cdef uint32_t free_place, first_done, last_done   # lists of places

    cdef int begin(self, const StorageRequest *request) noexcept nogil
    cdef bint has_outcomes(self) noexcept nogil
    cdef bint take_outcome(self, StorageOutcome *outcome) noexcept nogil
    cdef void end_command(self, NbdCommand *command) noexcept nogil
    cdef void fail_waiting(self, int error) noexcept nogil
    cdef int _add_commands(self, const StorageRequest *request, uint32_t place) noexcept nogil
    cdef int _add_data(self, const StorageRequest *request, NbdCommand *command, uint64_t skipped_bytes) noexcept nogil
    cdef int _add_zeroes(self, NbdCommand *command) noexcept nogil
    cdef NbdCommand *_new_command(self, uint32_t place, int range_count) noexcept nogil
    cdef void _free_command(self, NbdCommand *command) noexcept nogil
    cdef uint32_t _new_place(self, uint64_t tag) noexcept nogil
    cdef void _note_done(self, uint32_t place) noexcept nogil
