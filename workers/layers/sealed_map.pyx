# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The map of a settled layer, as it stands on the disk: what each block is, without anything being read beforehand.

All processes that have the layer open share the page cache's memory. The checksum of a unit is looked at when
the unit is wanted for the first time. A merge may add blocks meanwhile (docs/layers.md): what they read as does
not change, so either is right.
"""

import mmap
import os

from cpython.memoryview cimport PyMemoryView_GET_BUFFER
from libc.errno cimport EIO
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from ringblk.shm.platform.poll cimport poll
from ringblk.shm.sync.atomic cimport load_acquire_64
from ringblk.workers.files.holes cimport next_data
from ringblk.workers.layers.checksum cimport crc32
from ringblk.workers.layers.journal cimport UNIT_BYTES, UNIT_WORDS, MapUnit
from ringblk.workers.layers.map cimport WORD_SHIFT

from ringblk.workers.layers.form import LayerDamaged, MapLayout, block_count

cdef extern from * nogil:
    int __builtin_ctzll(unsigned long long value)

cdef enum:
    LOOKS = 1000              # at a unit that somebody may be writing to: that takes less than a microsecond,
    WAITS = 1000              # or until the host lets him go on, milliseconds

cdef uint64_t EACH = 0x5555555555555555   # a bit for each block of a word


cdef class SealedMap:
    """The map of a layer of `size_bytes`, in its file `fd`, which stays the caller's. Raises `OSError`."""

    def __init__(self, int fd, uint64_t size_bytes):
        layout = MapLayout.of(size_bytes)
        self.fd = fd
        self.block_count = block_count(size_bytes)
        self.unit_count = layout.unit_count
        self.map_offset_bytes = layout.map_offset
        self.view = memoryview(mmap.mmap(fd, layout.file_bytes, mmap.MAP_SHARED, mmap.PROT_READ))
        self.units = <const MapUnit *>(
            <uint8_t *>PyMemoryView_GET_BUFFER(self.view).buf + <size_t>layout.map_offset)
        self.is_sound = <uint64_t *>calloc((self.unit_count + 63) // 64, sizeof(uint64_t))
        if self.is_sound == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.is_sound)

    def state(self, uint64_t block):
        """What a block is: 0 absent, 1 zero, 3 present. Raises `OSError` for a damaged map."""
        if block >= self.block_count:
            raise ValueError(f"block {block} of {self.block_count}")
        cdef int state = self.state_of(block)
        if state < 0:
            raise OSError(-state, os.strerror(-state))
        return state

    def check(self):
        """See that all of it is sound. Raises `LayerDamaged`."""
        cdef uint64_t unit = self.next_unit(0)
        while unit < self.unit_count:
            if not self._is_sound(unit):
                raise LayerDamaged(f"unit {unit} of its map is damaged: the checksum is wrong")
            unit = self.next_unit(unit + 1)

    cdef uint64_t next_unit(self, uint64_t unit) noexcept nogil:
        """The first unit from this one on that may hold something; those in holes are passed over."""
        cdef uint64_t offset_bytes = self.map_offset_bytes + unit * UNIT_BYTES
        cdef uint64_t end_bytes = self.map_offset_bytes + self.unit_count * UNIT_BYTES
        if unit >= self.unit_count:
            return self.unit_count
        if offset_bytes & 4095:
            return unit
        return (next_data(self.fd, offset_bytes, end_bytes) - self.map_offset_bytes) // UNIT_BYTES

    cdef int state_of(self, uint64_t block) noexcept nogil:
        """Negative errno for a damaged unit."""
        cdef uint64_t word = block >> WORD_SHIFT
        if not self._is_sound(word // UNIT_WORDS):
            return -EIO
        return <int>((load_acquire_64(&self.units[word // UNIT_WORDS].words[word % UNIT_WORDS]) >> (2 * (block & 31))) & 3)

    cdef uint64_t run_length(self, uint64_t first, uint64_t end, int *state) noexcept nogil:
        """How many blocks from `first` on are what it is, up to `end`; the state is a negative errno if that is unknown."""
        cdef uint64_t block = first, word, value, pattern
        state[0] = self.state_of(first)
        if state[0] < 0 or end - first == 1:
            return end - first
        pattern = EACH * <uint64_t>state[0]
        while block < end:
            word = block >> WORD_SHIFT
            if not self._is_sound(word // UNIT_WORDS):
                return block - first
            value = (load_acquire_64(&self.units[word // UNIT_WORDS].words[word % UNIT_WORDS]) ^ pattern) >> (2 * (block & 31))
            if value:
                return min(end, block + <uint64_t>__builtin_ctzll(value) // 2) - first
            block = (word + 1) << WORD_SHIFT
        return end - first

    cdef bint _is_sound(self, uint64_t unit) noexcept nogil:
        """Whether a unit is as it was written, or never was; looked at once."""
        cdef MapUnit copy
        cdef uint64_t place
        cdef int look
        if (self.is_sound[unit >> 6] >> (unit & 63)) & 1:
            return True
        for look in range(LOOKS + WAITS):   # who merges may be in the middle of writing it
            if look >= LOOKS:
                if self.is_damaged:
                    break
                poll(NULL, 0, 1)
            memcpy(&copy, &self.units[unit], UNIT_BYTES)
            place = 0
            if copy.checksum == 0 and copy.index == 0:
                while place < UNIT_WORDS and not copy.words[place]:
                    place += 1
            if place == UNIT_WORDS or (copy.index == unit and copy.checksum == crc32(&copy.index, UNIT_BYTES - 4)):
                self.is_sound[unit >> 6] |= <uint64_t>1 << (unit & 63)
                return True
        self.is_damaged = True
        return False
