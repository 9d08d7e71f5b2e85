from ringblk.shm.state.segment import StateSegment

def publish_block_state(
    state: StateSegment,
    *,
    capacity_sectors: int,
    is_read_only: bool,
    durable_writes: bool,
    is_flush_offered: bool,
    is_discard_offered: bool,
    skips_flush: bool = False,
) -> None: ...
def read_capacity_sectors(state: StateSegment) -> int: ...
