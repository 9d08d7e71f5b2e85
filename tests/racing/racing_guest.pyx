# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A guest that writes to its memory at full speed while the device reads it.

A plan (tests/racing/plan.py) lists words of guest memory and the values that each may have, a legal one first. A race
goes in turns: all words are made legal, and then random values are stored into one or two of them, or into all, again
and again. One word alone changes every few nanoseconds, so that two readings of it hardly ever agree.
"""

import mmap
import os
import struct

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport write

from ringblk.shm.sync.atomic cimport load_acquire_16, store_release_16

cdef enum:
    WORD_LIMIT = 256
    VALUE_LIMIT = 8
    LOOK_EVERY = 32        # stores between two looks at the used ring
    TURN_STORES = 1 << 16


cdef struct Word:
    uint64_t offset_bytes
    uint32_t size_bytes
    uint32_t value_count
    uint64_t values[VALUE_LIMIT]


cdef inline uint64_t next_random(uint64_t *state) noexcept nogil:
    state[0] ^= state[0] << 13
    state[0] ^= state[0] >> 7
    state[0] ^= state[0] << 17
    return state[0]


cdef inline uint64_t now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec


cdef inline void store(uint8_t *ram, const Word *word, uint64_t value) noexcept nogil:
    if word.size_bytes == 8:
        (<volatile uint64_t *>(ram + word.offset_bytes))[0] = value
    elif word.size_bytes == 4:
        (<volatile uint32_t *>(ram + word.offset_bytes))[0] = <uint32_t>value
    else:
        (<volatile uint16_t *>(ram + word.offset_bytes))[0] = <uint16_t>value


cdef class Race:
    """One race over the guest memory behind `ram_fd`. `plan` is what plan.encode() gives."""

    cdef object mapping
    cdef uint8_t[::1] view
    cdef uint8_t *ram
    cdef Word words[WORD_LIMIT]
    cdef uint32_t word_count
    cdef uint64_t random_state
    cdef int kick_fd
    cdef readonly uint64_t store_count
    cdef readonly uint64_t request_count

    def __init__(self, int ram_fd, int kick_fd, bytes plan, uint64_t seed):
        self.mapping = mmap.mmap(ram_fd, os.fstat(ram_fd).st_size)
        self.view = self.mapping
        self.ram = &self.view[0]
        self.random_state = seed * 2654435761 + 88172645463325252
        self.kick_fd = kick_fd
        for offset_bytes, size_bytes, count, *values in struct.iter_unpack("<QII8Q", plan):
            self.words[self.word_count] = Word(offset_bytes, size_bytes, count, values)
            self.word_count += 1

    def run(self, double seconds, uint64_t avail_offset, uint64_t used_offset, uint32_t queue_size, bint has_entries):
        """Race for so long and drive the queue whose rings lie there.

        With `has_entries` the avail ring is ours: every head that comes back is offered again. Otherwise its entries
        race as well, and one of them is offered after the other.
        """
        cdef uint64_t end_ns = now_ns() + <uint64_t>(seconds * 1e9)
        cdef uint16_t *avail = <uint16_t *>(self.ram + avail_offset)
        cdef uint16_t *used = <uint16_t *>(self.ram + used_offset)
        cdef uint16_t next_used = 0   # as the rings begin
        with nogil:
            while now_ns() < end_ns:
                next_used = self._turn(avail, used, queue_size, has_entries, next_used)

    cdef uint16_t _turn(self, uint16_t *avail, uint16_t *used, uint32_t queue_size, bint has_entries,
                        uint16_t next_used) noexcept nogil:
        cdef const Word *word
        cdef uint32_t index, hot_count = 1 + next_random(&self.random_state) % 3
        cdef uint32_t hot[2]
        for index in range(self.word_count):
            store(self.ram, &self.words[index], self.words[index].values[0])
        for index in range(2):
            hot[index] = next_random(&self.random_state) % self.word_count
        for index in range(<uint32_t>TURN_STORES):
            if hot_count > 2:
                word = &self.words[next_random(&self.random_state) % self.word_count]
            else:
                word = &self.words[hot[index % hot_count]]
            store(self.ram, word, word.values[next_random(&self.random_state) % word.value_count])
            if index % LOOK_EVERY:
                continue
            if has_entries:
                next_used = self._offer_again(avail, used, queue_size, next_used)
            elif load_acquire_16(used + 1) != next_used:
                next_used = load_acquire_16(used + 1)
                self.request_count += 1
                store_release_16(avail + 1, next_used + 1)
                self._kick()
        self.store_count += TURN_STORES
        return next_used

    cdef void _kick(self) noexcept nogil:
        cdef uint64_t one = 1
        write(self.kick_fd, &one, sizeof(one))

    cdef uint16_t _offer_again(self, uint16_t *avail, uint16_t *used, uint32_t queue_size,
                               uint16_t next_used) noexcept nogil:
        """Offer what has come back once more, and kick."""
        cdef uint16_t used_idx = load_acquire_16(used + 1), avail_idx = avail[1]
        cdef const uint32_t *element
        if used_idx == next_used:
            return next_used
        while next_used != used_idx:
            element = <const uint32_t *>(used + 2) + 2 * (next_used & (queue_size - 1))
            avail[2 + (avail_idx & (queue_size - 1))] = <uint16_t>element[0]
            avail_idx += 1
            next_used += 1
            self.request_count += 1
        store_release_16(avail + 1, avail_idx)   # the entries before the index
        self._kick()
        return next_used
