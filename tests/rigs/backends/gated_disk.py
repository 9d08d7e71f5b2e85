"""Disks for tests of what happens while a request is being carried out, and when it fails."""

import mmap
import os


class GatedDisk:
    """A disk in memory. Reads from its beginning, and flushes, wait until a FIFO is opened for writing."""

    read_only = False

    def __init__(self, size_bytes: int, gate: str) -> None:
        self.size_bytes = size_bytes
        self.gate = gate
        self.memory = mmap.mmap(-1, size_bytes)

    def wait(self) -> None:
        with open(self.gate + ".waiting", "ab", buffering=0) as waiting:
            waiting.write(b"x")
        os.close(os.open(self.gate, os.O_RDONLY))

    def read_at(self, offset_bytes: int, buffer: memoryview) -> None:
        if offset_bytes == 0:  # once a request: it comes in parts
            self.wait()
        buffer[:] = self.memory[offset_bytes : offset_bytes + len(buffer)]

    def write_at(self, offset_bytes: int, buffer: memoryview) -> None:
        self.memory[offset_bytes : offset_bytes + len(buffer)] = buffer

    def flush(self) -> None:
        self.wait()


class FailingDisk:
    """A disk whose second half cannot be used."""

    read_only = False

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes

    def check(self, offset_bytes: int) -> None:
        if offset_bytes >= self.size_bytes // 2:
            raise LookupError(f"nothing at {offset_bytes}")

    def read_at(self, offset_bytes: int, buffer: memoryview) -> None:
        self.check(offset_bytes)
        buffer[:] = b"r" * len(buffer)

    def write_at(self, offset_bytes: int, buffer: memoryview) -> None:
        self.check(offset_bytes)

    def flush(self) -> None:
        raise OSError(5, "cannot flush")


class ReadOnlyDisk(FailingDisk):
    """A disk that says by itself that it is read-only."""

    read_only = True
