# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Saving the live map of a layer: what a FLUSH does beyond flushing the data (docs/layers.md has the argument).

First the data, then the map: the bits that are to be saved are collected, then the data file is flushed, then they are
written to the journal. So no bit is on the disk before what it stands for. Bits are only ever set, so records may be
replayed in any order and any number of times, and one that was torn by a power failure is left out.

What a record says is written to its place in the map at once, and flushed with the first record of each half of the
journal. So a record is on the disk in its place before the journal comes round to it.

One process at a time saves, under a lock that ends with it. Whatever it had begun, the next one finds and ends.
"""

import os

from libc.errno cimport EINTR, EIO, ENOMEM, ENOSYS, EOPNOTSUPP, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset
from posix.uio cimport iovec, preadv

from ringblk.shm.sync.atomic cimport load_acquire_64, set_bits_64, store_release_64
from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.shm.sync.invariant cimport invariant
from ringblk.workers.files.file_calls cimport lock_for_writing, sync_data, write_ranges, write_ranges_durably
from ringblk.workers.files.holes cimport next_data
from ringblk.workers.layers.checksum cimport crc32
from ringblk.workers.layers.map cimport PAGE_SHIFT, LayerMap, LiveHeader

from ringblk.workers.layers.form import JOURNAL_SLOTS, LayerDamaged, MapLayout

cdef enum:
    PAGE_UNITS = 10           # units that hold a page's words, at most
    READ_UNITS = 128
    CHECKED_BYTES = UNIT_BYTES - 4


cdef class LayerJournal:
    """The map's file `fd` of the layer with this id, and the live map that is saved to it. The file stays the caller's."""

    def __init__(self, int fd, LayerMap live_map, uint64_t size_bytes, bytes layer_id):
        layout = MapLayout.of(size_bytes)
        assert sizeof(MapUnit) == UNIT_BYTES and sizeof(JournalRecord) == UNIT_BYTES
        self.fd = fd
        self.map = live_map
        self.layer_tag = int.from_bytes(layer_id[:8], "little")
        self.journal_offset_bytes = layout.journal_offset
        self.map_offset_bytes = layout.map_offset
        self.word_count = (live_map.block_count + 31) // 32
        self.slot_count = JOURNAL_SLOTS
        self.records = <JournalRecord *>malloc(self.slot_count // 2 * sizeof(JournalRecord))
        if self.records == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.changes)
        free(self.records)

    def flush(self, int data_fd):
        """Bring data and map to the disk. Raises `OSError`."""
        cdef int result
        with nogil:   # other threads go on: it takes as long as the disk likes
            result = self.save(data_fd)
        if result < 0:
            raise OSError(-result, os.strerror(-result))

    cdef int save(self, int data_fd) noexcept nogil:
        """All that was written before this was called is on the disk when it returns 0; else a negative errno.

        At most two flushes, one where there are no new blocks.
        """
        cdef LiveHeader *header = self.map.header
        cdef uint64_t begun_count
        cdef int result
        if not self.map.has_unsaved():
            return _sync(data_fd)
        # Acquire: pairs with the release below; a flush that is begun later covers all that was written by now.
        begun_count = load_acquire_64(&header.begun_count)
        while lock_for_writing(self.fd, True) != 0:
            if errno != EINTR:
                return -errno
        crash_point("layer: flush lock taken")
        result = self._save_locked(data_fd, begun_count)
        lock_for_writing(self.fd, False)
        return result

    cdef int _save_locked(self, int data_fd, uint64_t begun_count) noexcept nogil:
        cdef LiveHeader *header = self.map.header
        cdef int result
        if header.done_begun_count > begun_count:
            return 0   # one that began after this one came has ended
        if header.is_broken:
            return -EIO
        store_release_64(&header.begun_count, header.begun_count + 1)
        self.map.take_unsaved()
        result = self._collect()
        if result < 0:
            return result
        crash_point("layer: changes collected")
        result = _sync(data_fd)
        if result < 0:
            header.is_broken = True
            return result
        crash_point("layer: data flushed")
        result = self._write_changes()
        if result < 0:
            return result
        self.map.forget_taken()
        header.done_begun_count = header.begun_count
        crash_point("layer: flush done")
        return 0

    # What is to be saved

    cdef int _collect(self) noexcept nogil:
        """Find the words of the pages taken that have more bits than the map on the disk."""
        cdef uint64_t page
        cdef int result
        self.change_count = 0
        for page in range(self.map.page_count):
            if (self.map.taken[page >> 6] >> (page & 63)) & 1:
                result = self._collect_page(page)
                if result < 0:
                    return result
        return 0

    cdef int _collect_page(self, uint64_t page) noexcept nogil:
        cdef MapUnit units[PAGE_UNITS]
        cdef uint64_t word = page << PAGE_SHIFT, end = min((page + 1) << PAGE_SHIFT, self.word_count)
        cdef uint64_t first_unit = word // UNIT_WORDS
        cdef uint64_t bits, saved
        cdef int result = self._read_units(first_unit, (end - 1) // UNIT_WORDS + 1 - first_unit, units)
        while word < end and result == 0:
            # Acquire: what the bits stand for was written before; the data file is flushed after.
            bits = load_acquire_64(&self.map.words[word])
            saved = 0 if self.map.header.is_broken else units[word // UNIT_WORDS - first_unit].words[word % UNIT_WORDS]
            invariant(saved & ~bits == 0, "a bit that was saved is in the live map")
            if bits != saved:
                result = self._add_change(word, bits)
            word += 1
        return result

    cdef int _add_change(self, uint64_t word, uint64_t bits) noexcept nogil:
        cdef size_t room
        cdef Change *changes
        if self.change_count == self.change_room:
            room = max(<size_t>1024, 2 * self.change_room)
            changes = <Change *>realloc(self.changes, room * sizeof(Change))
            if changes == NULL:
                return -ENOMEM
            self.changes = changes
            self.change_room = room
        self.changes[self.change_count].word = <uint32_t>word
        self.changes[self.change_count].bits = bits
        self.change_count += 1
        return 0

    # On the disk

    cdef int _write_changes(self) noexcept nogil:
        cdef LiveHeader *header = self.map.header
        cdef uint64_t record_count = (self.change_count + RECORD_CHANGES - 1) // RECORD_CHANGES
        cdef int result = 0
        if record_count == 0 and not header.is_map_unsynced:
            return 0
        if record_count <= self.slot_count // 2 and not header.is_map_unsynced:
            result = self._write_records(<uint32_t>record_count)
            return self._apply() if result == 0 else result
        # Without a record: until it is flushed, what is read back from the file proves nothing.
        header.is_map_unsynced = True
        crash_point("layer: map about to be written")
        result = self._apply()
        if result == 0:
            result = _sync(self.fd)
            header.is_broken |= result < 0
        if result == 0:
            header.is_map_unsynced = False
            crash_point("layer: map flushed")
        return result

    cdef int _write_records(self, uint32_t record_count) noexcept nogil:
        """Write the changes to the journal, durably."""
        cdef LiveHeader *header = self.map.header
        cdef uint32_t half = self.slot_count // 2, slot = header.journal_slot % self.slot_count, index
        cdef size_t done = 0, count
        cdef JournalRecord *record
        cdef int result
        if slot % half + record_count > half:
            slot = (slot // half + 1) * half % self.slot_count
        memset(self.records, 0, record_count * sizeof(JournalRecord))
        for index in range(record_count):
            record = &self.records[index]
            count = min(<size_t>RECORD_CHANGES, self.change_count - done)
            record.change_count = <uint32_t>count
            record.layer_tag = self.layer_tag
            memcpy(record.changes, self.changes + done, count * sizeof(Change))
            record.checksum = crc32(&record.change_count, CHECKED_BYTES)
            done += count
        result = self._write(self.records, record_count * sizeof(JournalRecord),
                             self.journal_offset_bytes + <uint64_t>slot * UNIT_BYTES, slot % half != 0)
        if result == 0 and slot % half == 0:
            # What the records of the other half say is in its place on the disk from now on: they may be overwritten.
            result = _sync(self.fd)
            header.is_broken |= result < 0
        if result == 0:
            crash_point("layer: record durable")
            # Before the map is written to: a record whose changes seem to be saved must not be overwritten.
            header.journal_slot = slot + record_count
            crash_point("layer: journal moved on")
        return result

    cdef int _apply(self) noexcept nogil:
        """Set the bits of the changes in the map, without a flush."""
        cdef MapUnit unit
        cdef uint64_t index
        cdef size_t place = 0
        cdef int result
        while place < self.change_count:
            index = self.changes[place].word // UNIT_WORDS
            result = self._read_units(index, 1, &unit)
            if result < 0:
                return result
            while place < self.change_count and self.changes[place].word // UNIT_WORDS == index:
                unit.words[self.changes[place].word % UNIT_WORDS] |= self.changes[place].bits
                place += 1
            unit.index = <uint32_t>index
            unit.checksum = crc32(&unit.index, CHECKED_BYTES)
            result = self._write(&unit, UNIT_BYTES, self.map_offset_bytes + index * UNIT_BYTES, False)
            if result < 0:
                return result
            crash_point("layer: unit of the map written")
        return 0

    cdef int _read_units(self, uint64_t first, uint64_t count, MapUnit *units) noexcept nogil:
        """Read and check; -EIO for one that is damaged."""
        cdef uint64_t index
        cdef int result = _read(self.fd, units, count * UNIT_BYTES, self.map_offset_bytes + first * UNIT_BYTES)
        if result < 0:
            return result
        for index in range(count):
            if not _is_sound(&units[index], first + index):
                return -EIO
        return 0

    cdef int _write(self, const void *data, size_t size_bytes, uint64_t offset_bytes, bint durable) noexcept nogil:
        cdef iovec rest
        cdef ssize_t count
        cdef bint flushes = False
        rest.iov_base = <void *>data
        rest.iov_len = size_bytes
        while rest.iov_len:
            if durable:
                count = write_ranges_durably(self.fd, &rest, 1, offset_bytes)
                if count < 0 and (errno == EOPNOTSUPP or errno == ENOSYS):
                    durable = False
                    flushes = True
                    continue
            else:
                count = write_ranges(self.fd, &rest, 1, offset_bytes)
            if count < 0 and errno != EINTR:
                # A write that was to be durable may have failed at its flush: what the disk has is not known then.
                self.map.header.is_broken |= durable and errno == EIO
                return -errno
            if count > 0:
                rest.iov_base = <uint8_t *>rest.iov_base + count
                rest.iov_len -= count
                offset_bytes += count
        if flushes:
            count = _sync(self.fd)
            self.map.header.is_broken |= count < 0
            return <int>count
        return 0

    # At the start

    def recover(self):
        """Fill the live map, which is empty, from the map and its journal; what the journal has is in the map then.

        Raises `LayerDamaged`, `OSError`.
        """
        cdef MapUnit units[READ_UNITS]
        cdef uint64_t first = 0, count, index, unit_count = (self.word_count + UNIT_WORDS - 1) // UNIT_WORDS
        cdef uint64_t word, place, end_bytes = self.map_offset_bytes + unit_count * UNIT_BYTES
        cdef bint has_any = False
        while True:
            first = (next_data(self.fd, self.map_offset_bytes + first * UNIT_BYTES, end_bytes)
                     - self.map_offset_bytes) // UNIT_BYTES
            if first >= unit_count:
                break
            has_any = True
            count = min(<uint64_t>READ_UNITS, unit_count - first)
            _raise(_read(self.fd, units, count * UNIT_BYTES, self.map_offset_bytes + first * UNIT_BYTES))
            for index in range(count):
                if not _is_sound(&units[index], first + index):
                    raise LayerDamaged(f"unit {first + index} of its map is damaged: the checksum is wrong")
                for place in range(UNIT_WORDS):
                    word = (first + index) * UNIT_WORDS + place
                    if word < self.word_count and units[index].words[place]:
                        _raise(self._restore(word, units[index].words[place]))
            first += count
        self.change_count = 0
        end_bytes = self.journal_offset_bytes + self.slot_count * sizeof(JournalRecord)
        if next_data(self.fd, self.journal_offset_bytes, end_bytes) < end_bytes:
            has_any = True
            self._replay()
            _raise(self._apply())
        if has_any:   # what a process that has died had not flushed is on the disk before anybody builds on it
            _raise(_sync(self.fd))
        self.map.header.journal_slot = 0

    def repair(self, int data_fd):
        """After a flush that failed: write the whole map anew, which nobody else uses. Raises `OSError`."""
        self.map.header.is_map_unsynced = True
        self.map.note_unsaved()
        self.map.take_unsaved()
        _raise(self._collect())
        _raise(_sync(data_fd))
        self.map.header.is_broken = False
        _raise(self._write_changes())
        self.map.forget_taken()

    cdef _replay(self):
        """Take what the sound records of the journal say into the live map and the list of changes."""
        cdef uint32_t half = self.slot_count // 2, slot, index
        cdef uint64_t offset_bytes = self.journal_offset_bytes
        cdef JournalRecord *record
        for _ in range(2):
            _raise(_read(self.fd, self.records, half * sizeof(JournalRecord), offset_bytes))
            offset_bytes += half * sizeof(JournalRecord)
            for slot in range(half):
                record = &self.records[slot]
                if record.layer_tag != self.layer_tag or record.change_count > RECORD_CHANGES \
                        or record.checksum != crc32(&record.change_count, CHECKED_BYTES):
                    continue   # never written, or torn: then nobody was told that it is there
                for index in range(record.change_count):
                    if record.changes[index].word >= self.word_count:
                        raise LayerDamaged("a record of its journal names blocks beyond its end")
                    _raise(self._restore(record.changes[index].word, record.changes[index].bits))
                    _raise(self._add_change(record.changes[index].word, record.changes[index].bits))

    cdef int _restore(self, uint64_t word, uint64_t bits) noexcept nogil:
        cdef int result = self.map._touch(word >> PAGE_SHIFT)
        if result == 0:
            set_bits_64(&self.map.words[word], bits)
        return result


cdef int _sync(int fd) noexcept nogil:
    while sync_data(fd) != 0:
        if errno != EINTR:
            return -errno
    return 0


cdef int _read(int fd, void *data, size_t size_bytes, uint64_t offset_bytes) noexcept nogil:
    cdef iovec rest
    cdef ssize_t count
    rest.iov_base = data
    rest.iov_len = size_bytes
    while rest.iov_len:
        count = preadv(fd, &rest, 1, offset_bytes)
        if count == 0:
            return -EIO   # the file is shorter than it was
        if count < 0 and errno != EINTR:
            return -errno
        if count > 0:
            rest.iov_base = <uint8_t *>rest.iov_base + count
            rest.iov_len -= count
            offset_bytes += count
    return 0


cdef bint _is_sound(const MapUnit *unit, uint64_t index) noexcept nogil:
    """Whether a unit is as it was written, or never was."""
    cdef uint64_t place = 0
    while place < UNIT_WORDS and not unit.words[place]:
        place += 1
    if place == UNIT_WORDS and not unit.checksum and not unit.index:
        return True
    return unit.index == <uint32_t>index and unit.checksum == crc32(&unit.index, CHECKED_BYTES)


cdef int _raise(int result) except -1:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return 0
