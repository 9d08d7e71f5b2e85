# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Where each block of a drive is: in its top layer, in one that lies below, in the base, or nowhere.

A read looks at up to three maps, whatever the number of layers: the top's, that of the layer right below, and the
index of all others. The layer below has a map of its own because it was the top until a moment ago, and because
that of a settled layer costs nothing to open: most drives have one.
"""

import os

from libc.stdint cimport uint64_t

from ringblk.shm.sync.atomic cimport load_acquire_32, store_release_32
from ringblk.workers.layers.index cimport INDEX_NOTHING, INDEX_ZEROES, BlockIndex
from ringblk.workers.layers.journal cimport LayerJournal
from ringblk.workers.layers.map cimport BLOCK_ABSENT, BLOCK_PRESENT, LayerMap
from ringblk.workers.layers.sealed_map cimport SealedMap

from ringblk.workers.layers.form import block_count


cdef class LayerStack:
    """The maps of one drive, whose base is seen up to `base_bytes`."""

    def __init__(self, LayerMap top, LayerJournal journal, uint64_t base_bytes):
        self.top = top
        self.journal = journal
        self.base_blocks = block_count(base_bytes)

    def lie_on(self, int number, uint64_t size_bytes, SealedMap settled, LayerMap live, LayerJournal journal, int data_fd):
        """The layer right below the top; it is settled, or it has a live map and what saves that."""
        self.near_number = number
        self.near_blocks = block_count(size_bytes)
        self.near_settled = settled
        self.near_live = live
        self.near_journal = journal
        self.near_fd = data_fd

    def know(self, BlockIndex index):
        """All layers below that one."""
        self.index = index

    def settle(self):
        """Bring all of the layer right below, which is sealed, to the disk: no process flushes it any more then.

        Raises `OSError`.
        """
        cdef int result = 0
        if self.near_live is None:
            return
        self.near_live.note_unsaved()
        with nogil:
            result = self.near_journal.save(self.near_fd)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        os.fsync(self.near_journal.fd)   # what the journal says is in its place
        store_release_32(&self.near_live.header.is_settled, True)

    def note_unsaved(self):
        """A process may have died: look through the maps at the next flush."""
        self.top.note_unsaved()
        if self.near_live is not None:
            self.near_live.note_unsaved()

    def place(self, uint64_t block):
        """Where a block is, as `BlockPlace` has it."""
        cdef int place
        if block >= self.top.block_count:
            raise ValueError(f"block {block} of {self.top.block_count}")
        self.run_length(block, block + 1, &place)
        return place

    cdef uint64_t run_length(self, uint64_t first, uint64_t end, int *place) noexcept nogil:
        """How many blocks from `first` on are in one place, up to `end`."""
        cdef int state
        cdef uint64_t count = self.top.run_length(first, end, &state)
        if state != BLOCK_ABSENT:
            place[0] = IN_TOP if state == BLOCK_PRESENT else NOWHERE
            return count
        return self.run_below(first, first + count, place)

    cdef uint64_t run_below(self, uint64_t first, uint64_t end, int *place) noexcept nogil:
        """The same of what the top lies on."""
        cdef int state = BLOCK_ABSENT, number = INDEX_NOTHING
        if self.near_number:
            if first >= self.near_blocks:
                place[0] = NOWHERE
                return end - first
            end = min(end, self.near_blocks)
            if self.near_live is not None:
                end = first + self.near_live.run_length(first, end, &state)
            else:
                end = first + self.near_settled.run_length(first, end, &state)
            if state != BLOCK_ABSENT:
                place[0] = state if state < 0 else self.near_number if state == BLOCK_PRESENT else NOWHERE
                return end - first
        if self.index is not None and first < self.index.block_count:
            end = first + self.index.run_length(first, min(end, self.index.block_count), &number)
            if number != INDEX_NOTHING:
                place[0] = NOWHERE if number == INDEX_ZEROES else number
                return end - first
        if first >= self.base_blocks:
            place[0] = NOWHERE
            return end - first
        place[0] = IN_BASE
        return min(end, self.base_blocks) - first

    cdef bint has_unsaved(self) noexcept nogil:
        """Whether a flush is more than one of the top's data."""
        if self.near_live is not None and not load_acquire_32(&self.near_live.header.is_settled):
            return True
        return self.top.has_unsaved()

    cdef int save(self, int data_fd) noexcept nogil:
        """All that was written is on the disk when it returns 0; else a negative errno. `data_fd` is the top's."""
        cdef int result
        # Acquire: pairs with note_settled, which comes after the flush.
        if self.near_live is not None and not load_acquire_32(&self.near_live.header.is_settled):
            result = self.near_journal.save(self.near_fd)
            if result < 0:
                return result
        return self.journal.save(data_fd)
