# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The live map of a layer: what each block is, in a mapped file that all processes of a drive share.

Two bits a block, which are only ever set: so nobody locks, and whatever order changes come in, the outcome is the
same. A mapping of a file survives every process; after a power failure it counts for nothing (docs/layers.md).

A page of the map is 512 words, 64 MiB of the drive. Three bitmaps have a bit for each page. `touched`: the page has
memory and disk space, so a store to it cannot fail; others are not even looked at. `unsaved`: it has changed since a
flush looked at it. `taken`: a flush has it in hand, or has died with it.
"""

import mmap
import os

from libc.errno cimport EINTR, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ringblk.shm.sync.atomic cimport (
    clear_bits_64, full_fence, load_acquire_64, load_relaxed_64, set_bits_64, store_release_32,
    store_release_64,
)
from ringblk.shm.sync.buffer_address cimport address_of, look_at
from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.shm.sync.invariant cimport invariant
from ringblk.workers.files.file_calls cimport give_space, is_unsupported

from ringblk.workers.layers.form import LIVE_MAGIC, VERSION, LiveLayout

cdef extern from * nogil:
    int __builtin_ctzll(unsigned long long value)

cdef uint64_t EACH = 0x5555555555555555   # a bit for each block of a word


def can_give_space(int fd, uint64_t size_bytes):
    """Give space to the first bytes of a file; False where its file system cannot. Raises `OSError`."""
    while give_space(fd, 0, size_bytes) != 0:
        if is_unsupported(errno):
            return False
        if errno != EINTR:
            raise OSError(errno, os.strerror(errno))
    return True


cdef class LayerMap:
    """The map of a layer of `size_bytes`, in the file `fd`, which is as large as `LiveLayout` says.

    The file stays the caller's. `is_read_only`: nothing is changed here, and none but what looks may be called.
    Raises `OSError`.
    """

    def __init__(self, int fd, uint64_t size_bytes, *, bint is_read_only=False):
        layout = LiveLayout.of(size_bytes)
        cdef uint8_t *memory
        self.fd = fd
        access = mmap.PROT_READ if is_read_only else mmap.PROT_READ | mmap.PROT_WRITE
        self.view = memoryview(mmap.mmap(fd, layout.file_bytes, prot=access))
        memory = <uint8_t *>look_at(self.view) if is_read_only else address_of(self.view)
        self.header = <LiveHeader *>memory
        self.touched = <uint64_t *>(memory + <size_t>layout.touched_offset)
        self.unsaved = <uint64_t *>(memory + <size_t>layout.unsaved_offset)
        self.taken = <uint64_t *>(memory + <size_t>layout.taken_offset)
        self.words = <uint64_t *>(memory + <size_t>layout.words_offset)
        self.words_offset_bytes = layout.words_offset
        self.block_count = layout.block_count
        self.page_count = layout.page_count
        self.bitmap_words = (self.page_count + 63) // 64

    @property
    def is_broken(self):
        """Whether a flush has failed, so that nobody knows what is on the disk."""
        return bool(self.header.is_broken)

    def begin(self, bytes boot_id, bytes layer_id, uint64_t size_bytes):
        """The map is filled: it counts from now on, within this boot."""
        memcpy(self.header.magic, <const char *>LIVE_MAGIC, 8)
        memcpy(self.header.boot_id, <const char *>boot_id, 16)
        memcpy(self.header.layer_id, <const char *>layer_id, 16)
        self.header.version = VERSION
        self.header.size_bytes = size_bytes
        # Release: a process that is killed before leaves no map that counts.
        store_release_32(&self.header.is_complete, 1)

    def distrust(self):
        """Any process may have died: look through all of it at the next flush."""
        self.note_unsaved()

    def state(self, uint64_t block):
        """What a block is: 0 absent, 1 zero, 3 present."""
        if block >= self.block_count:
            raise ValueError(f"block {block} of {self.block_count}")
        return self.state_of(block)

    def has(self, uint64_t first, uint64_t end):
        """Whether blocks [first, end) are all in the data."""
        if first >= end or end > self.block_count:
            raise ValueError(f"blocks {first} to {end} of {self.block_count}")
        return self.is_all(first, end, BLOCK_PRESENT)

    def note_written(self, uint64_t first, uint64_t end):
        """Blocks [first, end) are in the data from now on. Raises `OSError`."""
        if first >= end or end > self.block_count:
            raise ValueError(f"blocks {first} to {end} of {self.block_count}")
        result = self.add(first, end, BLOCK_PRESENT)
        if result < 0:
            raise OSError(-result, os.strerror(-result))

    def has_changed(self):
        """Whether a flush would have anything to save."""
        return bool(self.has_unsaved())

    def count(self):
        """How many blocks are in the data."""
        cdef uint64_t first = 0, length, found = 0
        cdef int state
        while first < self.block_count:
            length = self.run_length(first, self.block_count, &state)
            if state == BLOCK_PRESENT:
                found += length
            first += length
        return found

    cdef int state_of(self, uint64_t block) noexcept nogil:
        cdef uint64_t word = block >> WORD_SHIFT, page = word >> PAGE_SHIFT
        if not (load_relaxed_64(&self.touched[page >> 6]) >> (page & 63)) & 1:
            return BLOCK_ABSENT
        # Acquire: pairs with `add`, so who sees the bits sees what was written before them.
        return <int>((load_acquire_64(&self.words[word]) >> (2 * (block & 31))) & 3)

    cdef uint64_t run_length(self, uint64_t first, uint64_t end, int *state) noexcept nogil:
        """How many blocks from `first` on are what it is, up to `end`."""
        cdef uint64_t block = first, word, page, value, pattern
        state[0] = self.state_of(first)
        if end - first == 1:   # most requests are
            return 1
        pattern = EACH * <uint64_t>state[0]
        while block < end:
            word = block >> WORD_SHIFT
            page = word >> PAGE_SHIFT
            if not (load_relaxed_64(&self.touched[page >> 6]) >> (page & 63)) & 1:
                if state[0] != BLOCK_ABSENT:
                    return block - first
                block = (page + 1) << (PAGE_SHIFT + WORD_SHIFT)
                continue
            value = (load_acquire_64(&self.words[word]) ^ pattern) >> (2 * (block & 31))   # pairs as in state_of
            if value:
                return min(end, block + <uint64_t>__builtin_ctzll(value) // 2) - first
            block = (word + 1) << WORD_SHIFT
        return end - first

    cdef bint is_all(self, uint64_t first, uint64_t end, MapState state) noexcept nogil:
        """Whether all blocks of a range are in one state."""
        cdef int found
        return self.run_length(first, end, &found) == end - first and found == <int>state

    cdef int add(self, uint64_t first, uint64_t end, MapState state) noexcept nogil:
        """Set the bits of a state for blocks [first, end): 1 if any was not set before, 0 if none, negative errno.

        What the state stands for is done: present blocks were written.
        """
        cdef uint64_t block = first, word, page, until, mask
        cdef int result = 0, error
        invariant(end <= self.block_count, "blocks lie in the layer")
        while block < end:
            word = block >> WORD_SHIFT
            page = word >> PAGE_SHIFT
            until = min(end, (word + 1) << WORD_SHIFT)
            mask = EACH * <uint64_t>state
            if until - block < 32:
                mask = (mask & ((<uint64_t>1 << (2 * (until - block))) - 1)) << (2 * (block & 31))
            block = until
            if not (load_relaxed_64(&self.touched[page >> 6]) >> (page & 63)) & 1:
                error = self._touch(page)
                if error < 0:
                    return error
            if (load_relaxed_64(&self.words[word]) & mask) == mask:
                continue
            crash_point("layer: blocks written, not in the map")
            # Set (release: pairs with state_of), then look at the page's bit: pairs with the fence of `take_unsaved`.
            set_bits_64(&self.words[word], mask)
            crash_point("layer: blocks in the map")
            full_fence()
            self._note_page(page)
            result = 1
        return result

    cdef void _note_page(self, uint64_t page) noexcept nogil:
        cdef uint64_t bit = <uint64_t>1 << (page & 63)
        if not load_acquire_64(&self.unsaved[page >> 6]) & bit:
            set_bits_64(&self.unsaved[page >> 6], bit)
            crash_point("layer: page to be saved")

    cdef int _touch(self, uint64_t page) noexcept nogil:
        """Have space for a page of the map before anything is stored to it: a full disk is an error then, no signal."""
        while give_space(self.fd, self.words_offset_bytes + page * PAGE_BYTES, PAGE_BYTES) != 0:
            if is_unsupported(errno):
                break   # the file was filled at the start (live.py)
            if errno != EINTR:
                return -errno
        set_bits_64(&self.touched[page >> 6], <uint64_t>1 << (page & 63))
        return 0

    cdef bint has_unsaved(self) noexcept nogil:
        """Whether a flush would have anything to save."""
        cdef uint64_t index
        for index in range(self.bitmap_words):
            # In this order: `take_unsaved` sets the one before it clears the other.
            if load_acquire_64(&self.unsaved[index]) or load_acquire_64(&self.taken[index]):
                return True
        return False

    cdef bint is_unsaved(self, uint64_t first, uint64_t end) noexcept nogil:
        """Whether any page that blocks [first, end) are in has something to be saved."""
        cdef uint64_t page = first >> (WORD_SHIFT + PAGE_SHIFT)
        while page <= (end - 1) >> (WORD_SHIFT + PAGE_SHIFT):
            if ((load_acquire_64(&self.unsaved[page >> 6]) | load_acquire_64(&self.taken[page >> 6])) >> (page & 63)) & 1:
                return True
            page += 1
        return False

    cdef void note_unsaved(self) noexcept nogil:
        """A process has died: it may have set bits and not have noted their page."""
        cdef uint64_t index, bits
        for index in range(self.bitmap_words):
            bits = load_acquire_64(&self.touched[index])
            if bits:
                set_bits_64(&self.unsaved[index], bits)

    cdef void take_unsaved(self) noexcept nogil:
        """Under the flush lock: what is unsaved is this flush's, and whose it was that has died."""
        cdef uint64_t index, bits
        for index in range(self.bitmap_words):
            bits = load_acquire_64(&self.unsaved[index])
            if bits:
                # Release: pairs with has_unsaved and is_unsaved; a page is in one of the two at any moment.
                store_release_64(&self.taken[index], self.taken[index] | bits)
                crash_point("layer: pages taken")
                clear_bits_64(&self.unsaved[index], bits)
                crash_point("layer: pages no longer unsaved")
        full_fence()   # clear, then read the words: pairs with the fence of `add`, so either sees what the other did

    cdef void forget_taken(self) noexcept nogil:
        """Under the flush lock: all that was taken is saved."""
        cdef uint64_t index
        for index in range(self.bitmap_words):
            if self.taken[index]:
                store_release_64(&self.taken[index], 0)   # pairs as in take_unsaved
                crash_point("layer: pages saved")
