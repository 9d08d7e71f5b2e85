from ringblk.shm.memory.guest_memory import GuestMemory
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.requests.request import RequestParser

OPERATION_NAMES: dict[int, str]
MAX_SEGMENTS: int
MAX_DISCARD_SECTORS: int
MAX_WRITE_ZEROES_SECTORS: int

class BlockParser(RequestParser):
    def __init__(self, state: StateSegment, memory: GuestMemory, block_size_bytes: int) -> None: ...
