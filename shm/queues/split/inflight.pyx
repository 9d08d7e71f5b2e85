# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The in-flight record of a split virtqueue (vhost-user, "Inflight I/O tracking").

The front end keeps the region and hands it to the next engine; within one engine the next dispatcher goes
on from it. The order of the writes is the specification's: a reader who finds the writer dead at any step
can tell what was reported done.

- a head is fetched: its counter, then its inflight flag;
- a batch is completed: each head is linked to the one before it (`last_batch_head`), the ring's used.idx
  is moved, each inflight flag is cleared, then `used_idx` is set to the ring's.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memset

from ringblk.shm.sync.atomic cimport store_release_16
from ringblk.shm.sync.buffer_address cimport address_of
from ringblk.shm.sync.crash_point cimport crash_point

from ringblk.shm.queues.errors import InflightError

HEADER_BYTES = sizeof(InflightHeader)
ENTRY_BYTES = sizeof(InflightEntry)
COUNTER_LIMIT = 1 << 63
"""Counters that a record may hold are below it: no engine has come that far, and the next one never overflows."""


def record_bytes(uint32_t queue_size):
    """How long a queue's record is."""
    return HEADER_BYTES + ENTRY_BYTES * queue_size


cdef class SplitInflight:
    """One queue's record, on the bytes at `offset_bytes` of a shared mapping."""

    def __init__(self, mapping, size_t offset_bytes, uint32_t queue_size):
        view = memoryview(mapping)
        if offset_bytes + record_bytes(queue_size) > <size_t>view.nbytes:
            raise InflightError(f"in-flight region of {view.nbytes} bytes is too small for a queue at"
                                f" {offset_bytes} with {queue_size} entries")
        self.view = view
        cdef uint8_t *place = address_of(view) + offset_bytes
        self.record.header = <InflightHeader *>place
        self.record.entries = <InflightEntry *>(place + sizeof(InflightHeader))
        self.record.queue_size = queue_size
        self.record.count = 0
        self.record.next_counter = 0

    @property
    def is_fresh(self):
        """Whether the record was never initialised: `recover` has not seen it, here or in an earlier engine."""
        return self.record.header.version == 0

    def recover(self, uint16_t ring_used_idx):
        """Bring the record up to the ring and return the heads in flight, oldest first.

        A region that was never initialised starts with the ring's used index (it may have been in use
        before it had a record). Otherwise the last batch, where it was published and not settled, is
        cleared along `last_batch_head`. Raises `InflightError` when record and ring cannot both be right.

        The front end can write to the record, so what was found is kept in `recovered` and read no more.
        """
        if self.record.header.version not in (0, INFLIGHT_VERSION):
            raise InflightError(f"in-flight region is of version {self.record.header.version}")
        heads = []
        if not self.is_fresh:
            known = min(self.record.header.desc_num, self.record.queue_size)
            heads = [head for head in range(known) if self.record.entries[head].inflight]
        if heads:
            if self.record.header.desc_num != self.record.queue_size:
                raise InflightError(f"in-flight region has requests of a queue with {self.record.header.desc_num}"
                                    f" entries, not {self.record.queue_size}")
            self._clear_published(ring_used_idx)
            heads = [head for head in heads if self.record.entries[head].inflight]
        elif self.record.header.version == 0 or self.record.header.desc_num != self.record.queue_size:
            memset(self.record.entries, 0, self.record.queue_size * sizeof(InflightEntry))
            self.record.header.desc_num = <uint16_t>self.record.queue_size
            self.record.header.last_batch_head = 0
            store_release_16(&self.record.header.version, INFLIGHT_VERSION)
            crash_point("recovery: record initialised")
        counters = {head: self.counter(head) for head in heads}
        last_counter = max(counters.values(), default=-1)
        if last_counter >= COUNTER_LIMIT:
            raise InflightError(f"in-flight region has a counter, {last_counter}, that no engine can have reached")
        store_release_16(&self.record.header.used_idx, ring_used_idx)
        crash_point("recovery: record agrees with the ring")
        self.record.count = 0
        self.record.next_counter = last_counter + 1
        self.recovered = dict(sorted(counters.items(), key=lambda item: item[1]))
        return list(self.recovered)

    def counter(self, uint32_t head_index):
        """The counter of a head: its place in the order in which heads were fetched."""
        return self.record.entries[head_index].counter

    def _clear_published(self, uint16_t ring_used_idx):
        """Clear the batch that the ring shows as used and the record as in flight."""
        cdef uint32_t published = <uint16_t>(ring_used_idx - self.record.header.used_idx)
        cdef uint32_t head = self.record.header.last_batch_head
        if published > self.record.queue_size:
            raise InflightError(f"in-flight region stops at used index {self.record.header.used_idx}, the ring at"
                                f" {ring_used_idx}")
        for _ in range(published):
            if head >= self.record.queue_size:
                raise InflightError(f"in-flight region links to entry {head} of {self.record.queue_size}")
            self.record.entries[head].inflight = 0
            crash_point("recovery: published head cleared")
            head = self.record.entries[head].next

    @property
    def count(self):
        """Heads that were taken in here, or are to be, and are not given back."""
        return self.record.count

    def fetch(self, uint32_t head_index):
        """Mark a head in flight, as the next in order."""
        inflight_mark(&self.record, head_index, self.record.next_counter)
        self.record.count += 1
        self.record.next_counter += 1

    def link(self, uint32_t head_index):
        """Put a head into the batch whose used.idx is moved next."""
        inflight_link(&self.record, head_index)

    def clear(self, uint32_t head_index):
        """Clear a head whose used element is published."""
        inflight_clear(&self.record, head_index)

    def settle(self, uint16_t used_idx):
        """End a batch: the record agrees with the ring again."""
        inflight_settle(&self.record, used_idx)
