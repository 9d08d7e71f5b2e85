"""The requests of one shared folder."""

from ringblk.shm.memory.guest_memory import GuestMemory
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.backends.folder import FolderBackend
from ringblk.workers.backends.python_folder import PythonFolderBackend
from ringblk.workers.fs.executor import FolderExecutor
from ringblk.workers.fs.inode_table import InodeTable
from ringblk.workers.fs.nameless import NamelessInodes
from ringblk.workers.fs.parser import FolderParser
from ringblk.workers.fs.python_executor import PythonExecutor, worker_opcodes
from ringblk.workers.fs.settings import ShareSettings
from ringblk.workers.fs.share import Share, ShareMemory


class FolderRequests:
    """`DriveRequests` of a shared folder."""

    def __init__(self, backend: FolderBackend, settings: ShareSettings) -> None:
        self._backend = backend
        self._settings = settings
        self._shared = ShareMemory(backend.memory_fd, backend.folder_fd)

    def make_parser(self, state: StateSegment, memory: GuestMemory) -> FolderParser:
        """The parser of a dispatcher, which alone knows what inodes the guest knows."""
        table = InodeTable(self._shared)
        backend = self._backend
        nameless = NamelessInodes(table, backend.put_fd, backend.take_fd)
        return FolderParser(state, memory, self._shared, table, nameless, self._settings.is_read_only)

    def make_executor(self, state: StateSegment, memory: GuestMemory) -> FolderExecutor:
        """The executor of a worker or dispatcher."""
        backend = self._backend
        share = Share(state, memory, self._shared, backend.folder_fd, backend.put_fd, self._settings)
        return FolderExecutor(share)


class PythonRequests:
    """`DriveRequests` of a file system of a user's own."""

    def __init__(self, backend: PythonFolderBackend, settings: ShareSettings) -> None:
        self._backend = backend
        self._settings = settings
        self._shared = ShareMemory(backend.memory_fd, -1)

    def make_parser(self, state: StateSegment, memory: GuestMemory) -> FolderParser:
        """The parser of a dispatcher, which alone knows what inodes the guest knows."""
        opcodes = worker_opcodes(self._backend.file_system)
        table = InodeTable(self._shared)
        return FolderParser(state, memory, self._shared, table, None, self._settings.is_read_only, opcodes)

    def make_executor(self, state: StateSegment, memory: GuestMemory) -> PythonExecutor:
        """The executor of a worker or dispatcher."""
        share = Share(state, memory, self._shared, -1, -1, self._settings)
        return PythonExecutor(share, self._backend.file_system)
