from ringblk.shm.memory.guest_memory import GuestMemory
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.requests.request import RequestParser

OPERATION_NAMES: tuple[str, ...]

class BlockParser(RequestParser):
    def __init__(self, state: StateSegment, memory: GuestMemory, block_size_bytes: int) -> None: ...
