"""A disk that notes each flush as a byte in a file, for tests to count."""

import os


class FlushNotingDisk:
    """Its bytes are a file's, and so are its notes; both are opened before the sandbox."""

    read_only = False

    def __init__(self, size_bytes: int, path: str) -> None:
        self.size_bytes = size_bytes
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT)
        self._notes_fd = os.open(f"{path}.flushes", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def read_at(self, offset_bytes: int, buffer: memoryview) -> None:
        data = os.pread(self._fd, len(buffer), offset_bytes)
        buffer[:] = data.ljust(len(buffer), b"\0")

    def write_at(self, offset_bytes: int, buffer: memoryview) -> None:
        os.pwrite(self._fd, buffer, offset_bytes)

    def flush(self) -> None:
        os.write(self._notes_fd, b".")
