from ringblk.shm.memory.guest_memory import GuestMemory
from ringblk.shm.queues.virtqueue import Virtqueue

class SplitVirtqueue(Virtqueue):
    @property
    def next_used(self) -> int: ...
    def __init__(
        self,
        queue_index: int,
        queue_size: int,
        memory: GuestMemory,
        desc_uva: int,
        avail_uva: int,
        used_uva: int,
        event_idx: bool,
        chain_limit: int = 0,
    ) -> None: ...
