# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The inodes that the guest knows: by node id, with the host's file handle and the guest's lookup count.

The dispatcher is its one user. The records are in shared memory, for the dispatcher that comes after; how they are
found is in this process's own and made anew of them. A count changes when an outcome is published and not when a
request is carried out, which may be twice. Each change is written down before it is made, so a dispatcher that dies in
the middle of it leaves one that its successor can finish: it is made exactly once.
"""

from libc.stdlib cimport free, malloc, realloc

from ringblk.shm.sync.atomic cimport load_acquire_32, store_release_32, store_release_64
from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.workers.fs.protocol cimport FUSE_ROOT_ID
from ringblk.workers.fs.request cimport FORGOTTEN_LIMIT, INODE_LIMIT, folder_requests, inode_records
from ringblk.workers.fs.share cimport ShareMemory, is_same_handle

cdef enum:
    FIRST_ROOM = 1024    # records, and buckets; doubled as it fills


cdef class InodeTable:
    """Goes on with what is in the share's memory."""

    def __cinit__(self, ShareMemory shared):
        self.header = shared.header
        self.records = inode_records(self.header)
        self.requests = folder_requests(self.header)
        self.bucket_count = self.room = FIRST_ROOM
        while self.room < self.header.record_count:
            self.room *= 2
            self.bucket_count *= 2
        self.buckets = <int32_t *>malloc(self.bucket_count * sizeof(int32_t))
        self.next_alike = <int32_t *>malloc(self.room * sizeof(int32_t))
        if self.buckets == NULL or self.next_alike == NULL:
            raise MemoryError
        self.load_count = load_acquire_32(&self.header.load_count)   # pairs with the release of TableCopy.put
        self._finish_change()
        self._rebuild()

    def __dealloc__(self):
        free(self.buckets)
        free(self.next_alike)

    def counts(self):
        """The lookup count of each inode that the guest knows, by node id."""
        return {self.records[index].node_id: self.records[index].lookup_count
                for index in range(self.header.record_count) if self.records[index].node_id}

    cdef const FileHandle *handle_of(self, uint64_t node_id) noexcept nogil:
        """The file handle of an inode that the guest knows; NULL where it knows none of this id."""
        cdef int32_t found
        if node_id == <uint64_t>FUSE_ROOT_ID:
            return &self.header.root
        found = self._find(node_id)
        return NULL if found < 0 else &self.records[found].handle

    cdef void count_found(self, uint32_t slot_index, uint32_t place, const FoundInode *found) noexcept nogil:
        """The guest is told of an inode: the one at `place` of its request's outcome."""
        cdef int32_t index
        if found.node_id == <uint64_t>FUSE_ROOT_ID:   # which nobody forgets
            self.requests[slot_index].concluded_count = place + 1
            return
        index = self._find(found.node_id)
        if index < 0:
            index = self._add(found)
        if index >= 0:
            self._change(slot_index, place, index, self.records[index].lookup_count + 1)

    cdef void count_forgotten(self, uint32_t slot_index, uint32_t place, uint64_t node_id,
                              uint64_t lookup_count) noexcept nogil:
        """The guest forgets an inode as often as that."""
        cdef int32_t index = -1 if node_id == <uint64_t>FUSE_ROOT_ID else self._find(node_id)
        cdef uint64_t known
        if index >= 0:
            known = self.records[index].lookup_count
            self._change(slot_index, place, index, known - min(known, lookup_count))

    cdef void forget_all(self) noexcept nogil:
        """Another guest begins, or the same anew."""
        cdef uint32_t index
        for index in range(self.header.record_count):
            if self.records[index].node_id:
                self._note_forgotten(self.records[index].node_id)
                self.records[index].node_id = 0
        self.header.record_count = 0
        self.header.known_count = 0
        self._rebuild()

    cdef void note_loaded(self) noexcept nogil:
        """Find what the control plane has put here meanwhile, if it has, for a guest that comes from another engine."""
        cdef uint32_t room = self.room
        # Acquire: the number before the records; pairs with the release of TableCopy.put.
        cdef uint32_t load_count = load_acquire_32(&self.header.load_count)
        if load_count == self.load_count:
            return
        self.load_count = load_count
        while room < self.header.record_count:
            room *= 2
        if not self._make_room(room):
            self.header.record_count = 0   # the guest is told that it knows nothing: ESTALE
        self._rebuild()

    cdef void _change(self, uint32_t slot_index, uint32_t place, int32_t record_index, uint64_t new_count) noexcept nogil:
        """Set a count, together with how far the request's outcome is concluded."""
        self.header.change.record_index = <uint32_t>record_index
        self.header.change.new_count = new_count
        self.header.change.slot_index = slot_index
        self.header.change.new_concluded_count = place + 1
        # Release: the change before the word that says it is under way; read by the next dispatcher.
        store_release_32(&self.header.change.is_under_way, 1)
        crash_point("folder: count about to change")
        self.records[record_index].lookup_count = new_count
        crash_point("folder: count changed")
        self.requests[slot_index].concluded_count = place + 1
        store_release_32(&self.header.change.is_under_way, 0)
        if new_count == 0:
            self._free(record_index)

    cdef void _finish_change(self) noexcept nogil:
        """What the dispatcher before died in the middle of."""
        if self.header.change.is_under_way:
            self.records[self.header.change.record_index].lookup_count = self.header.change.new_count
            self.requests[self.header.change.slot_index].concluded_count = self.header.change.new_concluded_count
            store_release_32(&self.header.change.is_under_way, 0)

    cdef int32_t _find(self, uint64_t node_id) noexcept nogil:
        cdef int32_t index
        if node_id == 0:
            return -1
        index = self.buckets[node_id & (self.bucket_count - 1)]
        while index >= 0 and self.records[index].node_id != node_id:
            index = self.next_alike[index]
        return index

    cdef int32_t _add(self, const FoundInode *found) noexcept nogil:
        """A record for an inode, with a count of 0; -1 where there is no room."""
        cdef int32_t index = self.first_free
        if index >= 0:
            self.first_free = self.next_alike[index]
        else:
            if self.header.record_count >= self.room and not self._grow():
                return -1
            index = <int32_t>self.header.record_count
        self.records[index].handle = found.handle
        self.records[index].lookup_count = 0
        # Release: a record with an id is whole; read by the next dispatcher.
        store_release_64(&self.records[index].node_id, found.node_id)
        crash_point("folder: inode added")
        if <uint32_t>index == self.header.record_count:
            store_release_32(&self.header.record_count, <uint32_t>index + 1)
        self.header.known_count += 1
        self._link(index)
        return index

    cdef void _free(self, int32_t record_index) noexcept nogil:
        """Nobody knows this inode any more."""
        cdef uint64_t node_id = self.records[record_index].node_id
        cdef int32_t *link = &self.buckets[node_id & (self.bucket_count - 1)]
        while link[0] != record_index:
            link = &self.next_alike[link[0]]
        link[0] = self.next_alike[record_index]
        self.next_alike[record_index] = self.first_free
        self.first_free = record_index
        store_release_64(&self.records[record_index].node_id, 0)
        self.header.known_count -= 1
        self._note_forgotten(node_id)

    cdef void _note_forgotten(self, uint64_t node_id) noexcept nogil:
        """Have everybody close it who has it open."""
        self.header.forgotten[self.header.forgotten_tail % FORGOTTEN_LIMIT] = node_id
        # Release: the id before the position; pairs with Share.drop_forgotten.
        store_release_64(&self.header.forgotten_tail, self.header.forgotten_tail + 1)

    cdef void _link(self, int32_t record_index) noexcept nogil:
        cdef int32_t *bucket = &self.buckets[self.records[record_index].node_id & (self.bucket_count - 1)]
        self.next_alike[record_index] = bucket[0]
        bucket[0] = record_index

    cdef void _rebuild(self) noexcept nogil:
        """Find all records anew. One that no outcome was counted for is free."""
        cdef uint32_t index
        for index in range(self.bucket_count):
            self.buckets[index] = -1
        self.first_free = -1
        self.header.known_count = 0
        for index in range(min(self.header.record_count, self.room)):
            if self.records[index].node_id and self.records[index].lookup_count:
                self._link(<int32_t>index)
                self.header.known_count += 1
            else:
                self.records[index].node_id = 0
                self.next_alike[index] = self.first_free
                self.first_free = <int32_t>index

    cdef bint _grow(self) noexcept nogil:
        """Have links for twice as many; False where there are to be no more, or there is no memory."""
        if self.room >= <uint32_t>INODE_LIMIT or not self._make_room(2 * self.room):
            return False
        self._rebuild()
        return True

    cdef bint _make_room(self, uint32_t room) noexcept nogil:
        """Have links for so many, which are to be made anew."""
        cdef int32_t *buckets
        cdef int32_t *links = <int32_t *>realloc(self.next_alike, room * sizeof(int32_t))
        if links == NULL:
            return False
        self.next_alike = links
        buckets = <int32_t *>realloc(self.buckets, room * sizeof(int32_t))
        if buckets == NULL:
            return False
        self.buckets = buckets
        self.room = self.bucket_count = room
        return True
