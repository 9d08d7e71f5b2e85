"""A file system for tests of what happens while requests are being carried out."""

import os
import stat

from ringblk import Attributes


class GatedFolder:
    """One file, `file`, of inode 2. Its fsync and reads wait until a FIFO is opened for writing (`Gate`)."""

    def __init__(self, gate: str) -> None:
        self.gate = gate

    def wait(self) -> None:
        with open(self.gate + ".waiting", "ab", buffering=0) as waiting:
            waiting.write(b"x")
        os.close(os.open(self.gate, os.O_RDONLY))

    def lookup(self, parent: int, name: str) -> Attributes:
        if name != "file":
            raise FileNotFoundError(name)
        return self.getattr(2)

    def getattr(self, inode: int) -> Attributes:
        if inode == 1:
            return Attributes(inode, stat.S_IFDIR | 0o755, nlink=2)
        return Attributes(inode, stat.S_IFREG | 0o644, size=4096)

    def read(self, inode: int, offset: int, size: int) -> bytes:
        self.wait()
        return b"r" * size

    def fsync(self, inode: int, data_only: bool) -> None:
        self.wait()


class FailingFolder(GatedFolder):
    """Nothing of it can be read."""

    def wait(self) -> None:
        raise OSError(5, "nothing comes back")
