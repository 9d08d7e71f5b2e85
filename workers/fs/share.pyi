from ringblk.shm.memory.guest_memory import GuestMemory
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.fs.settings import ShareSettings

FOLDER_MEMORY_BYTES: int

class ShareMemory:
    def __init__(self, memory_fd: int, mount_fd: int) -> None: ...

class Share:
    def __init__(
        self,
        state: StateSegment,
        memory: GuestMemory,
        shared: ShareMemory,
        mount_fd: int,
        put_fd: int,
        settings: ShareSettings,
    ) -> None: ...
    def close(self) -> None: ...
