"""A disk of a user's own with a fault: some writes end the worker that does them.

--backend=killer_disk:KillerDisk --backend-arg=size_bytes=1048576 --backend-arg=manner=segfault
"""

import ctypes
import mmap
import os
import signal

DEADLY = b"this write kills"


class KillerDisk:
    """Keeps its bytes in memory that all workers share; a write that begins with DEADLY ends the worker."""

    read_only = False

    def __init__(self, size_bytes: int, manner: str) -> None:
        self.size_bytes = size_bytes
        self._manner = manner
        self._memory = mmap.mmap(-1, size_bytes)

    def start_worker(self) -> None:
        """Called in each worker; with the manner "start" none comes further."""
        if self._manner == "start":
            raise RuntimeError("no worker starts on this disk")

    def read_at(self, offset_bytes: int, buffer: memoryview) -> None:
        """Fill the buffer."""
        buffer[:] = self._memory[offset_bytes : offset_bytes + len(buffer)]

    def write_at(self, offset_bytes: int, buffer: memoryview) -> None:
        """Store the buffer, or die."""
        if bytes(buffer[: len(DEADLY)]) == DEADLY:
            self._die()
        self._memory[offset_bytes : offset_bytes + len(buffer)] = buffer

    def _die(self) -> None:
        match self._manner:
            case "segfault":
                ctypes.string_at(0)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(3)

    def flush(self) -> None:
        """Nothing to do."""
