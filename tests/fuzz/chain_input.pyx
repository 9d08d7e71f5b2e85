# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""How the bytes of a fuzz input become guest memory, rings and requests.

The first bytes describe the device, the regions and where the rings lie; then come steps, one byte each for its kind
and some for its values, until the input ends. Numbers are little-endian and bytes past the end are zero, so every
input means something.
"""

import mmap
import os
import struct

from libc.stdint cimport int16_t, int64_t, uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy, memset

from ringblk.shm.memory.region import MemoryRegion

cdef enum:
    RAM_BYTES = 0x10000
    RINGS_BYTES = 0x2000           # the last part of the RAM: where the rings are, unless the input says otherwise
    AVAIL_OFFSET = 0x800
    USED_OFFSET = 0x1000
    STEP_LIMIT = 256
    RECORD_HEADER_BYTES = 16

RAM_FD = os.memfd_create("fuzz-ram")
os.ftruncate(RAM_FD, RAM_BYTES)
_RAM = mmap.mmap(RAM_FD, RAM_BYTES)
cdef uint8_t[::1] _ram_view = _RAM

cdef uint64_t[4] BASES = [0, 0x40000000, 0xFFFFF000, 0xFFFFFFFFFFFF0000]
RINGS_UVA = 0x7F0000000000
REQUEST_TYPES = (0, 1, 4, 8, 11, 13, 2, 0xFFFFFFFF)


cdef class ChainInput:
    """One input. `read_device` first, then, once its regions are mapped, `read_content`, `fill_record`, `change_record`."""

    def __init__(self, bytes data):
        self.data = data
        self.ram = &_ram_view[0]
        self.fd = RAM_FD
        self.record_pokes = bytearray()

    cdef uint64_t number(self, int size_bytes) noexcept:
        """The next little-endian number."""
        cdef uint64_t value = 0
        cdef int index
        for index in range(size_bytes):
            if self.place < <size_t>len(self.data):
                value |= (<uint64_t><uint8_t>self.data[self.place]) << (8 * index)
            self.place += 1
        return value

    def read_device(self):
        """Device, regions, rings."""
        cdef uint64_t flags = self.number(2)
        self.is_read_only = flags & 1
        self.durable_writes = flags & 2
        self.is_flush_offered = not flags & 4
        self.is_discard_offered = not flags & 8
        self.skips_flush = flags & 16
        self.event_idx = flags & 32
        self.is_failing = flags & 64
        self.queue_size = 2 << ((flags >> 7) & 7)
        if self.queue_size > 128:
            self.queue_size = 128
        self._read_regions(BASES[(flags >> 10) & 3], flags & 0x1000)
        self._read_rings(flags & 0x2000)

    def _read_regions(self, uint64_t base, bint is_reversed):
        cdef uint64_t gpa = base, size_bytes, offset_bytes
        cdef uint32_t count = 1 + <uint32_t>self.number(1) % 6, index
        regions = [MemoryRegion(0x8000000000000000, RINGS_BYTES, RINGS_UVA, RAM_BYTES - RINGS_BYTES)]
        for index in range(count):
            size_bytes = 1 + (self.number(2) & 0x3FFF)
            offset_bytes = self.number(2) % (RAM_BYTES - size_bytes)
            gpa += (self.number(1) & 0x1F) * 0x101   # a gap, mostly none in what the mutator is given
            if size_bytes > <uint64_t>-1 - gpa:
                break
            regions.append(MemoryRegion(gpa, size_bytes, 0x600000000000 + index * 0x100000, offset_bytes))
            gpa += size_bytes
        if is_reversed:
            regions.reverse()
        self.regions = list(enumerate(regions))
        removed = self.number(1)
        self.removed = [index for index in range(len(regions)) if removed & (0x80 >> index)]

    def _read_rings(self, bint is_elsewhere):
        self.desc_uva, self.avail_uva, self.used_uva = RINGS_UVA, RINGS_UVA + AVAIL_OFFSET, RINGS_UVA + USED_OFFSET
        if is_elsewhere:
            self.desc_uva += <int64_t>(<int16_t>self.number(2)) * 4
            self.avail_uva = self.regions[self.number(1) % len(self.regions)][1].uva + self.number(2)
            self.used_uva += <int16_t>self.number(2)
        self.base = <uint16_t>self.number(2)

    def read_content(self):
        """All steps. Nothing that an earlier input wrote is left."""
        memset(self.ram, 0, RAM_BYTES)
        self._set_indexes(self.base)
        for _ in range(STEP_LIMIT):
            if self.place >= <size_t>len(self.data):
                break
            step = self.number(1) & 7
            if step == 0:
                self._step_request()
            elif step == 1:
                self._step_descriptor()
            elif step == 2:
                self._step_header()
            elif step == 3:
                self._step_bytes()
            elif step == 4:
                self._offer(<uint16_t>self.number(1) if self.number(1) & 1 else <uint16_t>self.number(2))
            elif step == 5:
                self.table_gpas[self.number(1) & 3] = self.gpa()
            elif step == 6:
                self.record_pokes += struct.pack("<BBHQ", self.number(1), self.number(1), self.number(2), self.number(8))
            else:
                self._set_avail_idx(<uint16_t>(self.offered_count + self.number(2)))

    cdef uint64_t gpa(self):
        """An address: near the beginning or the end of a region, or any."""
        cdef uint64_t selector = self.number(1)
        if selector == 0xFF:
            return self.number(8)
        region = self.regions[(selector & 0x7F) % len(self.regions)][1]
        if selector & 0x80:
            return (<uint64_t>region.gpa + <uint64_t>region.size_bytes) - self.number(1)
        return <uint64_t>region.gpa + self.number(2)

    cdef uint32_t length(self):
        cdef uint32_t code = <uint32_t>self.number(1)
        if code < 0x40:
            return code
        if code < 0x80:
            return (code - 0x3F) * 512
        if code < 0xC0:
            return (code - 0x7F) * 16
        return <uint32_t>self.number(2 if code < 0xF0 else 4)

    cdef uint64_t sector(self):
        cdef uint64_t code = self.number(1)
        return code if code < 0xF0 else self.number(2 if code < 0xF8 else 8)

    def _step_request(self):
        """A chain as a driver makes it: header, data cut into pieces, status; direct or with an indirect table."""
        cdef uint64_t flags = self.number(1), header_gpa = self.gpa(), data_gpa = self.gpa(), table_gpa = self.gpa()
        cdef uint64_t size_bytes, place, head = self.number(1) % self.queue_size
        cdef uint32_t request_type = REQUEST_TYPES[flags & 7]
        piece_count = (flags >> 3) & 3
        self.write(header_gpa, struct.pack("<IIQ", request_type, 0, self.sector()))
        pieces = [(header_gpa, 16, 0)]
        for _ in range(piece_count):
            size_bytes = self.length()
            pieces.append((data_gpa, size_bytes, 0 if request_type in (1, 11, 13) else 2))
            data_gpa += size_bytes
        pieces.append((data_gpa, 1, 2))
        is_indirect = flags & 0x20
        for place, (gpa, piece_bytes, is_writable) in enumerate(pieces):
            is_last = place + 1 == len(pieces)
            next_index = 0 if is_last else place + 1 if is_indirect else (head + place + 1) % self.queue_size
            entry = struct.pack("<QIHH", gpa, piece_bytes, is_writable | (not is_last), next_index)
            if is_indirect:
                self.write(table_gpa + 16 * place, entry)
            else:
                self.write_ring(16 * ((head + place) % self.queue_size), entry)
        if is_indirect:
            self.write_ring(16 * head, struct.pack("<QIHH", table_gpa, 16 * len(pieces), 4, 0))
        self._offer(<uint16_t>head)

    def _step_descriptor(self):
        cdef uint64_t where = self.number(1), flags = self.number(1), following = self.number(1)
        cdef uint64_t gpa = self.table_gpas[following & 3] if flags & 0x80 else self.gpa()
        entry = struct.pack("<QIHH", gpa, self.length(), flags & 0x7F, following)
        if where & 0x80:
            self.write(self.table_gpas[(where >> 5) & 3] + 16 * (where & 0x1F), entry)
        else:
            self.write_ring(16 * (where % self.queue_size), entry)

    def _step_header(self):
        cdef uint64_t gpa = self.gpa()
        self.write(gpa, struct.pack("<IIQ", REQUEST_TYPES[self.number(1) & 7], 0, self.sector()))

    def _step_bytes(self):
        """Bytes as they stand in the input: segments of a discard, and whatever else."""
        cdef uint64_t gpa = self.gpa(), count = self.number(1) & 0x3F
        self.write(gpa, self.data[self.place : self.place + count])
        self.place += count

    def _offer(self, uint16_t head):
        cdef uint16_t position = self.base + self.offered_count
        self.write_ring(AVAIL_OFFSET + 4 + 2 * (position % self.queue_size), struct.pack("<H", head))
        self.offered_count += 1
        self._set_avail_idx(self.offered_count)

    def _set_avail_idx(self, uint16_t count):
        self.write_ring(AVAIL_OFFSET + 2, struct.pack("<H", <uint16_t>(self.base + count)))

    def _set_indexes(self, uint16_t idx):
        self._set_avail_idx(0)
        self.write_ring(USED_OFFSET + 2, struct.pack("<H", idx))

    cdef int write_ring(self, size_t offset_bytes, bytes data) except -1:
        memcpy(self.ram + RAM_BYTES - RINGS_BYTES + offset_bytes, <const char *>data, len(data))
        return 0

    cdef int write(self, uint64_t gpa, bytes data) except -1:
        """Write where the regions say that this is; what lies outside of them is left out."""
        cdef uint64_t index, offset_bytes
        for _, region in self.regions:
            for index in range(<uint64_t>len(data)):
                offset_bytes = gpa + index - <uint64_t>region.gpa
                if offset_bytes < <uint64_t>region.size_bytes:
                    self.ram[<uint64_t>region.mmap_offset_bytes + offset_bytes] = <uint8_t>data[index]
        return 0

    def fill_record(self, record):
        """Write the in-flight record that the input says, if any: entries, or fields of its header."""
        if not self.record_pokes:
            return
        struct.pack_into("<QHHHH", record, 0, 0, 1, self.queue_size, 0, self.base)
        for which, flag, following, counter in struct.iter_unpack("<BBHQ", self.record_pokes):
            if which == 0xFF:
                struct.pack_into("<HHHH", record, 8, *struct.unpack("<HHHH", counter.to_bytes(8, "little")))
            elif which < 0x80:
                self._poke_entry(record, which, flag, following, counter)

    def change_record(self, record):
        """Write what the front end changes once the record was read: other entries."""
        for which, flag, following, counter in struct.iter_unpack("<BBHQ", self.record_pokes):
            if 0x80 <= which < 0xFF:
                self._poke_entry(record, which, flag, following, counter)

    def _poke_entry(self, record, which, flag, following, counter):
        place = RECORD_HEADER_BYTES + 16 * (which % self.queue_size)
        struct.pack_into("<B5xHQ", record, place, flag, following, counter)
