"""A disk whose dead processes are fenced when a file is there; what it opens before a fork they use after it.

Where a file `failing` is there, the question fails.

--backend=fenced_disk:FencedDisk --backend-arg=size_bytes=N --backend-arg=folder=PATH
"""

import os
from pathlib import Path

from ringblk.workers.backends.memory import MemoryBackend


class FencedDisk(MemoryBackend):
    """Notes whom it was asked for in `folder`, where `fenced` says that nobody's writes can land any more."""

    def __init__(self, size_bytes: int, folder: Path) -> None:
        super().__init__(size_bytes)
        self._folder = folder
        self._prepared_fd = -1

    def prepare_process(self, name: str) -> tuple[int, ...]:
        self._prepared_fd = os.open(self._folder / f"of {name}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        return (self._prepared_fd,)

    def start_worker(self) -> None:
        os.write(self._prepared_fd, b"started\n")

    def start_dispatcher(self) -> None:
        os.write(self._prepared_fd, b"started\n")

    def is_fenced(self, name: str) -> bool:
        (self._folder / f"asked {name}").touch()
        if (self._folder / "failing").exists():
            raise RuntimeError("nobody can tell")
        return (self._folder / "fenced").exists()
