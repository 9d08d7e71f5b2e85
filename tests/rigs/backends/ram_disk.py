"""A disk of one's own: --backend=ram_disk:RamDisk --backend-arg=size_bytes=67108864."""

import mmap


class RamDisk:
    """Keeps its bytes in memory that all workers share."""

    read_only = False

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.memory = mmap.mmap(-1, size_bytes)  # shared with the workers, which are forked later

    def read_at(self, offset_bytes: int, buffer: memoryview) -> None:
        buffer[:] = self.memory[offset_bytes : offset_bytes + len(buffer)]

    def write_at(self, offset_bytes: int, buffer: memoryview) -> None:
        self.memory[offset_bytes : offset_bytes + len(buffer)] = buffer

    def flush(self) -> None:
        pass
