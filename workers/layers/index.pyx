# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Which of many sealed layers has each block: so a read looks once, however many layers there are.

Two bytes a block: the number of the layer, as the drive's processes know it. It is memory that all of them share,
made of the layers' maps whenever a drive is opened, so it has no form on the disk. Pages that no layer has
anything of take no memory: a bitmap says which do, because a mere look would have the kernel make one.
"""

import mmap

from libc.stdint cimport uint8_t, uint16_t, uint64_t

from ringblk.shm.sync.atomic cimport load_acquire_64, set_bits_64
from ringblk.shm.sync.buffer_address cimport address_of
from ringblk.workers.layers.journal cimport UNIT_WORDS
from ringblk.workers.layers.map cimport BLOCK_ABSENT, BLOCK_PRESENT, WORD_SHIFT
from ringblk.workers.layers.sealed_map cimport SealedMap

from ringblk.shm.platform.shared_memory import make_unnamed
from ringblk.workers.layers.form import LayerDamaged, block_count

cdef enum:
    PAGE_BYTES = 4096
    PAGE_BLOCKS = 1 << INDEX_PAGE_SHIFT


cdef uint64_t head_bytes(uint64_t page_count):
    return ((page_count + 63) // 64 * 8 + PAGE_BYTES - 1) // PAGE_BYTES * PAGE_BYTES


cdef class BlockIndex:
    """The index of a drive of `size_bytes`, in the memory `fd`, which stays the caller's. Raises `OSError`."""

    def __init__(self, int fd, uint64_t size_bytes):
        cdef uint8_t *memory
        self.fd = fd
        self.block_count = block_count(size_bytes)
        self.page_count = (self.block_count + PAGE_BLOCKS - 1) >> INDEX_PAGE_SHIFT
        self.view = memoryview(mmap.mmap(fd, head_bytes(self.page_count) + self.page_count * PAGE_BYTES))
        memory = address_of(self.view)
        self.touched = <uint64_t *>memory
        self.entries = <uint16_t *>(memory + head_bytes(self.page_count))

    @staticmethod
    def make(uint64_t size_bytes):
        """A descriptor of memory for one that names nothing yet. Raises `OSError`."""
        cdef uint64_t page_count = (block_count(size_bytes) + PAGE_BLOCKS - 1) >> INDEX_PAGE_SHIFT
        return make_unnamed("ringblk-index", head_bytes(page_count) + page_count * PAGE_BYTES)

    def number(self, uint64_t block):
        """The number of the layer that has a block; 0: none has, 65535: it is zeroes."""
        cdef int number
        if block >= self.block_count:
            raise ValueError(f"block {block} of {self.block_count}")
        self.run_length(block, block + 1, &number)
        return number

    def add(self, SealedMap layer, uint16_t number):
        """A layer on top of those that it names. Raises `LayerDamaged`."""
        cdef uint64_t unit, block, end, until, limit = min(self.block_count, layer.block_count)
        cdef int state = 0
        with nogil:
            unit = layer.next_unit(0)
            while unit < layer.unit_count:
                block = unit * UNIT_WORDS << WORD_SHIFT
                end = min(limit, (unit + 1) * UNIT_WORDS << WORD_SHIFT)
                while block < end:
                    until = block + layer.run_length(block, end, &state)
                    if state < 0:
                        break
                    if state != BLOCK_ABSENT:
                        self._put(block, until, number if state == BLOCK_PRESENT else INDEX_ZEROES)
                    block = until
                if state < 0:
                    break
                unit = layer.next_unit(unit + 1)
        if state < 0:
            raise LayerDamaged(f"unit {unit} of its map is damaged: the checksum is wrong")

    def hide(self, uint64_t size_bytes):
        """Nothing of the layers that it names is seen from here on."""
        cdef uint64_t block = block_count(size_bytes), page
        while block < self.block_count:
            page = block >> INDEX_PAGE_SHIFT
            if (self.touched[page >> 6] >> (page & 63)) & 1:
                self.entries[block] = INDEX_ZEROES if self.entries[block] else INDEX_NOTHING
                block += 1
            else:
                block = (page + 1) << INDEX_PAGE_SHIFT

    def replace(self, uint16_t number, uint16_t by):
        """All that one layer has is in another as well: name that one."""
        cdef uint64_t page, place
        with nogil:
            for page in range(self.page_count):
                if (self.touched[page >> 6] >> (page & 63)) & 1:
                    for place in range(page << INDEX_PAGE_SHIFT, min(self.block_count, (page + 1) << INDEX_PAGE_SHIFT)):
                        if self.entries[place] == number:
                            self.entries[place] = by   # one store: whoever looks sees one or the other

    cdef uint64_t run_length(self, uint64_t first, uint64_t end, int *number) noexcept nogil:
        """How many blocks from `first` on are in the same layer, up to `end`."""
        cdef uint64_t block = first, page, until
        cdef uint16_t entry
        if end - first == 1:   # most requests are
            page = first >> INDEX_PAGE_SHIFT
            number[0] = INDEX_NOTHING
            if (load_acquire_64(&self.touched[page >> 6]) >> (page & 63)) & 1:
                number[0] = self.entries[first]
            return 1
        number[0] = -1
        while block < end:
            page = block >> INDEX_PAGE_SHIFT
            until = min(end, (page + 1) << INDEX_PAGE_SHIFT)
            if not (load_acquire_64(&self.touched[page >> 6]) >> (page & 63)) & 1:
                if number[0] > 0:
                    return block - first
                number[0] = INDEX_NOTHING
                block = until
                continue
            while block < until:
                entry = self.entries[block]
                if number[0] < 0:
                    number[0] = entry
                elif number[0] != entry:
                    return block - first
                block += 1
        return end - first

    cdef void _put(self, uint64_t first, uint64_t end, uint16_t entry) noexcept nogil:
        cdef uint64_t page
        for page in range(first >> INDEX_PAGE_SHIFT, ((end - 1) >> INDEX_PAGE_SHIFT) + 1):
            set_bits_64(&self.touched[page >> 6], <uint64_t>1 << (page & 63))
        while first < end:
            self.entries[first] = entry
            first += 1
