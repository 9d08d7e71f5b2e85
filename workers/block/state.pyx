# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What a block device is at the moment, published in its state segment and read from there."""

from ringblk.shm.state.segment cimport KIND_STATE_BYTES, StateSegment

assert sizeof(BlockState) == KIND_STATE_BYTES, "a kind's state is of that size"


def publish_block_state(StateSegment state, *, capacity_sectors, is_read_only, durable_writes, is_flush_offered,
                        is_discard_offered, skips_flush=False):
    """Have requests be checked against this. The supervisor is the only one that calls it."""
    cdef BlockState *device = block_state(state)
    device.capacity_sectors = capacity_sectors
    device.is_read_only = is_read_only
    device.durable_writes = durable_writes
    device.is_flush_offered = is_flush_offered
    device.is_discard_offered = is_discard_offered
    device.skips_flush = skips_flush


def read_capacity_sectors(StateSegment state):
    """How large the drive is for its guest, in sectors of 512 bytes."""
    return block_state(state).capacity_sectors
