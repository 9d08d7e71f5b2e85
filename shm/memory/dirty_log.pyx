# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The dirty log: which pages of guest memory the device has written (vhost-user, "Migration").

A front end that moves its guest shares a bit for each 4 KiB of guest physical address, lowest first. It takes bits
away and then copies those pages, so a page is marked after it was written, and marked again after each later write.
"""

from libc.stdint cimport uint64_t, uint8_t

from ringblk.shm.sync.atomic cimport set_bits_8
from ringblk.shm.sync.buffer_address cimport address_of

cdef enum:
    LOG_PAGE_SHIFT = 12   # of guest memory for each bit, whatever the page size is (VHOST_LOG_PAGE)


def log_bytes(end_gpa):
    """How long a log is at least for guest memory that ends before this address."""
    return -(-end_gpa // (8 << LOG_PAGE_SHIFT))


cdef class DirtyLog:
    """Marks pages in a shared mapping (`GuardedPart`), all of which is the log."""

    def __init__(self, mapping):
        self.view = memoryview(mapping)
        self.bits = address_of(self.view)
        self.page_count = 8 * <uint64_t>self.view.nbytes

    def mark_pages(self, uint64_t gpa, uint64_t length_bytes):
        """As `mark`."""
        self.mark(gpa, length_bytes)

    cdef void mark(self, uint64_t gpa, uint64_t length_bytes) noexcept nogil:
        """These bytes were written. Pages beyond the log are of memory that is gone (`DriveModel` checks the length)."""
        cdef uint64_t page = gpa >> LOG_PAGE_SHIFT, end_page
        cdef uint64_t next_page
        if length_bytes == 0:
            return
        end_page = ((gpa + length_bytes - 1) >> LOG_PAGE_SHIFT) + 1
        end_page = min(end_page, self.page_count)
        while page < end_page:
            next_page = min((page | 7) + 1, end_page)
            # Sequentially consistent: the write comes before the mark; pairs with the front end's exchange of the log's
            # words before it reads the page.
            set_bits_8(&self.bits[page >> 3], <uint8_t>((0xFF << (page & 7)) & (0xFF >> (7 - ((next_page - 1) & 7)))))
            page = next_page
