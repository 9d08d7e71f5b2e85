# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Requests as an NBD server takes them: cut into commands, which wait here for a connection, and put together again."""

from libc.errno cimport ENOMEM
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset
from posix.uio cimport iovec

from ringblk.workers.backends.asynchronous cimport (
    STORAGE_DISCARD, STORAGE_FLUSH, STORAGE_READ, STORAGE_WRITE_ZEROES,
)
from ringblk.workers.nbd.command cimport FEW_RANGES, append, take_first
from ringblk.workers.nbd.protocol cimport (
    COMMAND_FLUSH, COMMAND_FUA, COMMAND_NO_HOLE, COMMAND_READ, COMMAND_TRIM, COMMAND_WRITE, COMMAND_WRITE_ZEROES,
)

cdef extern from * nogil:
    """
    #define RINGBLK_NBD_ZERO_BYTES 65536
    static unsigned char ringblk_nbd_zeroes[RINGBLK_NBD_ZERO_BYTES];   /* never written */
    """
    enum: ZERO_BYTES "RINGBLK_NBD_ZERO_BYTES"
    uint8_t *zeroes "ringblk_nbd_zeroes"

cdef enum:
    CHANGE_BYTES = 1 << 30    # the largest piece in which space is given back or zeroed

cdef uint32_t NO_PLACE = <uint32_t>-1


cdef class NbdRequests:
    """Of an export of which this was found (`ExportFound`). A request has a place from its beginning to its outcome."""

    def __cinit__(self, found):
        self.maximum_bytes = found.maximum_bytes
        self.can_flush, self.can_fua = found.can_flush, found.can_fua
        self.can_trim, self.can_zero = found.can_trim, found.can_zero
        self.free_place = self.first_done = self.last_done = NO_PLACE

    def __dealloc__(self):
        cdef NbdCommand *command
        while self.free_commands.first != NULL:
            command = self.free_commands.first
            self.free_commands.first = command.next
            free(command)
        free(self.places)

    cdef int begin(self, const StorageRequest *request) noexcept nogil:
        """Have its commands wait: 0, or -ENOMEM."""
        cdef uint32_t place = self._new_place(request.tag)
        cdef int result
        if place == NO_PLACE:
            return -ENOMEM
        self.under_way += 1
        result = self._add_commands(request, place)
        self.places[place].error = result
        if self.places[place].left == 0:   # nothing is to be done; else what was added goes its way
            self._note_done(place)
        return 0

    cdef bint has_outcomes(self) noexcept nogil:
        return self.first_done != NO_PLACE

    cdef bint take_outcome(self, StorageOutcome *outcome) noexcept nogil:
        """Of a request that is done; False: none is."""
        cdef uint32_t place = self.first_done
        if place == NO_PLACE:
            return False
        self.under_way -= 1
        self.first_done = self.places[place].next
        outcome.tag = self.places[place].tag
        outcome.result = self.places[place].error
        self.places[place].next = self.free_place
        self.free_place = place
        return True

    cdef void fail_waiting(self, int error) noexcept nogil:
        """What waits is not to wait any longer."""
        cdef NbdCommand *command = take_first(&self.waiting)
        while command != NULL:
            command.error = error
            self.end_command(command)
            command = take_first(&self.waiting)

    cdef int _add_commands(self, const StorageRequest *request, uint32_t place) noexcept nogil:
        """Cut a request into commands, which wait then: 0, or a negative errno."""
        cdef NbdCommand *command
        cdef uint64_t done_bytes = 0, limit_bytes = CHANGE_BYTES
        cdef int kind = COMMAND_READ, flags = 0
        cdef bint has_zeroes = request.operation == STORAGE_WRITE_ZEROES and not self.can_zero
        if request.operation == STORAGE_FLUSH:
            if not self.can_flush:
                return 0
            command = self._new_command(place, 0)
            if command == NULL:
                return -ENOMEM
            command.command, command.offset_bytes, command.length_bytes = COMMAND_FLUSH, 0, 0
            append(&self.waiting, command)
            return 0
        if request.operation == STORAGE_DISCARD:
            if not self.can_trim:
                return 0
            kind = COMMAND_TRIM
        elif request.operation == STORAGE_WRITE_ZEROES and not has_zeroes:
            kind = COMMAND_WRITE_ZEROES
            flags = 0 if request.may_unmap else COMMAND_NO_HOLE
        elif request.operation != STORAGE_READ:
            kind = COMMAND_WRITE
            if request.is_durable and self.can_fua:
                flags = COMMAND_FUA
            self.places[place].needs_flush = request.is_durable and not self.can_fua and self.can_flush
        if kind == COMMAND_READ or kind == COMMAND_WRITE:
            limit_bytes = self.maximum_bytes
        while done_bytes < request.length_bytes:
            command = self._new_command(place, max(request.range_count, <int>(limit_bytes // ZERO_BYTES) * has_zeroes))
            if command == NULL:
                return -ENOMEM
            command.command, command.flags = <uint16_t>kind, <uint16_t>flags
            command.offset_bytes = request.offset_bytes + done_bytes
            command.length_bytes = <uint32_t>min(limit_bytes, request.length_bytes - done_bytes)
            if has_zeroes:
                self._add_zeroes(command)
            elif kind == COMMAND_READ or kind == COMMAND_WRITE:
                self._add_data(request, command, done_bytes)
            append(&self.waiting, command)
            done_bytes += command.length_bytes
        return 0

    cdef int _add_data(self, const StorageRequest *request, NbdCommand *command, uint64_t skipped_bytes) noexcept nogil:
        """The part of a request's ranges that this command is for."""
        cdef uint64_t left_bytes = command.length_bytes, size_bytes
        cdef int index
        for index in range(request.range_count):
            size_bytes = request.ranges[index].iov_len
            if skipped_bytes >= size_bytes:
                skipped_bytes -= size_bytes
                continue
            command.ranges[command.range_count].iov_base = <char *>request.ranges[index].iov_base + skipped_bytes
            size_bytes = min(size_bytes - skipped_bytes, left_bytes)
            command.ranges[command.range_count].iov_len = size_bytes
            command.range_count += 1
            skipped_bytes = 0
            left_bytes -= size_bytes
            if left_bytes == 0:
                break
        return 0

    cdef int _add_zeroes(self, NbdCommand *command) noexcept nogil:
        """Zeroes as data, for a server that knows no others."""
        cdef uint64_t left_bytes = command.length_bytes, size_bytes
        while left_bytes:
            size_bytes = min(left_bytes, <uint64_t>ZERO_BYTES)
            command.ranges[command.range_count].iov_base = zeroes
            command.ranges[command.range_count].iov_len = size_bytes
            command.range_count += 1
            left_bytes -= size_bytes
        return 0

    cdef NbdCommand *_new_command(self, uint32_t place, int range_count) noexcept nogil:
        """One of a place, with room for so many ranges; NULL: there is no memory."""
        cdef NbdCommand *command = take_first(&self.free_commands)
        if command == NULL:
            command = <NbdCommand *>malloc(sizeof(NbdCommand))
        if command == NULL:
            return NULL
        memset(command, 0, sizeof(NbdCommand))
        command.place = place
        command.ranges = command.few_ranges
        if range_count > FEW_RANGES:
            command.ranges = <iovec *>malloc(range_count * sizeof(iovec))
            if command.ranges == NULL:
                append(&self.free_commands, command)
                return NULL
        self.places[place].left += 1
        return command

    cdef void _free_command(self, NbdCommand *command) noexcept nogil:
        if command.ranges != command.few_ranges:
            free(command.ranges)
        append(&self.free_commands, command)

    cdef uint32_t _new_place(self, uint64_t tag) noexcept nogil:
        cdef uint32_t place = self.free_place, count
        cdef Place *places
        if place == NO_PLACE:
            count = max(<uint32_t>64, 2 * self.place_count)
            places = <Place *>realloc(self.places, count * sizeof(Place))
            if places == NULL:
                return NO_PLACE
            self.places = places
            for place in range(self.place_count, count):
                places[place].next = place + 1 if place + 1 < count else NO_PLACE
            place = self.place_count
            self.place_count = count
        self.free_place = self.places[place].next
        memset(&self.places[place], 0, sizeof(Place))
        self.places[place].tag = tag
        return place

    cdef void _note_done(self, uint32_t place) noexcept nogil:
        self.places[place].next = NO_PLACE
        if self.first_done == NO_PLACE:
            self.first_done = place
        else:
            self.places[self.last_done].next = place
        self.last_done = place

    cdef void end_command(self, NbdCommand *command) noexcept nogil:
        """A command is done, with success or `error`."""
        cdef Place *place = &self.places[command.place]
        cdef uint32_t place_index = <uint32_t>command.place
        cdef NbdCommand *flush
        if place.error == 0:
            place.error = command.error
        self._free_command(command)
        place.left -= 1
        if place.left:
            return
        if place.needs_flush and place.error == 0:
            place.needs_flush = False
            flush = self._new_command(place_index, 0)
            if flush != NULL:
                flush.command = COMMAND_FLUSH
                append(&self.waiting, flush)
                return
            place.error = -ENOMEM
        self._note_done(place_index)
