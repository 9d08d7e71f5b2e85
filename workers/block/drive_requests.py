"""The requests of one block device: its backend and its id."""

from ringblk.shm.memory.guest_memory import GuestMemory
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.block.executor import BlockExecutor
from ringblk.workers.block.parser import BlockParser


class BlockRequests:
    """`DriveRequests` of a block device. `drive_id` is what GET_ID gives, cut at 20 bytes."""

    def __init__(self, backend: NativeBackend, drive_id: bytes) -> None:
        self._backend = backend
        self._drive_id = drive_id

    def make_parser(self, state: StateSegment, memory: GuestMemory) -> BlockParser:
        """The parser of a dispatcher."""
        return BlockParser(state, memory, self._backend.block_size_bytes)

    def make_executor(self, state: StateSegment, memory: GuestMemory) -> BlockExecutor:
        """The executor of a worker or dispatcher."""
        return BlockExecutor(state, memory, self._backend, self._drive_id)
