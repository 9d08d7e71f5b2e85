# What a block device is at the moment, for whoever checks its requests: the 64 bytes of its kind in the state segment.

from libc.stdint cimport uint32_t, uint64_t

from ringblk.shm.state.segment cimport StateSegment


cdef struct BlockState:
    # Written by the supervisor, a field at a time.
    uint64_t capacity_sectors
    uint32_t is_read_only
    uint32_t durable_writes         # the driver turned the write-back cache off
    uint32_t is_flush_offered
    uint32_t is_discard_offered
    uint32_t skips_flush            # a FLUSH is done when it is asked for (cache=unsafe)
    uint32_t reserved[9]


cdef inline BlockState *block_state(StateSegment state) noexcept nogil:
    """Where it stands."""
    return <BlockState *>state.header.kind_state
