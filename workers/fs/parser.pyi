from ringblk.shm.memory.guest_memory import GuestMemory
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.fs.inode_table import InodeTable
from ringblk.workers.fs.nameless import NamelessInodes
from ringblk.workers.fs.share import ShareMemory
from ringblk.workers.requests.request import RequestParser

class FolderParser(RequestParser):
    def __init__(
        self,
        state: StateSegment,
        memory: GuestMemory,
        shared: ShareMemory,
        table: InodeTable,
        nameless: NamelessInodes | None,
        is_read_only: bool,
        worker_opcodes: int = 0,
    ) -> None: ...
