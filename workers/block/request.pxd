# A virtio block request (virtio 1.2, 5.2.6), as the parser leaves it in a slot for the executor. What `protocol.py`
# names as well has the same value there: tests/workers/block/test_protocol.py.

from libc.stdint cimport uint32_t, uint64_t

cdef enum RequestType:
    TYPE_IN = 0
    TYPE_OUT = 1
    TYPE_FLUSH = 4
    TYPE_GET_ID = 8
    TYPE_DISCARD = 11
    TYPE_WRITE_ZEROES = 13

cdef enum RequestStatus:
    STATUS_OK = 0
    STATUS_IOERR = 1
    STATUS_UNSUPP = 2
    STATUS_NOT_WRITTEN = 0xFF

cdef enum BlockOperation:
    # 0 is OPERATION_COMPLETE
    OPERATION_READ = 1
    OPERATION_WRITE = 2
    OPERATION_FLUSH = 3
    OPERATION_GET_ID = 4
    OPERATION_DISCARD = 5
    OPERATION_WRITE_ZEROES = 6

cdef enum:
    SECTOR_BYTES = 512
    HEADER_BYTES = 16
    DRIVE_ID_BYTES = 20
    MAX_SEGMENTS = 16         # of one DISCARD or WRITE_ZEROES request
    SEGMENT_F_UNMAP = 1
    MAX_DISCARD_SECTORS = 0x200000      # of one segment: 1 GiB
    MAX_WRITE_ZEROES_SECTORS = 0x20000  # of one segment, which may have to be written: 64 MiB


cdef packed struct BlockHeader:
    uint32_t type
    uint32_t reserved
    uint64_t sector


cdef packed struct SectorRange:
    # What the standard calls a segment of DISCARD and WRITE_ZEROES; stands in the slot's ranges, from first_range on, range_count of them.
    uint64_t sector
    uint32_t num_sectors
    uint32_t flags
