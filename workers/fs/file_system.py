"""What a file system of a user's own is: a class whose methods have the names of FUSE's operations.

`FileSystem` says what there is; `ringblk.workers.backends.python_folder` finds a class by name.
"""

from collections.abc import Iterable
from typing import Protocol

import msgspec


class Attributes(msgspec.Struct, frozen=True):
    """What an inode is."""

    inode: int
    """1 to 2^64 - 1; the same in all processes, as long as the guest may know the inode."""
    mode: int
    """Kind and permissions, as in `stat.S_IFREG | 0o644`."""
    size: int = 0
    nlink: int = 1
    uid: int = 0
    gid: int = 0
    rdev: int = 0
    """Of a device: its numbers, as `os.makedev` has them."""
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    """Nanoseconds since 1970."""


class Changes(msgspec.Struct, frozen=True):
    """What is to be set; None: nothing."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


class Caller(msgspec.Struct, frozen=True):
    """Who asks, in the guest."""

    uid: int
    gid: int
    pid: int


class StatFs(msgspec.Struct, frozen=True):
    """What `df` shows; sizes in blocks of `block_bytes`."""

    block_bytes: int = 4096
    blocks: int = 0
    free_blocks: int = 0
    available_blocks: int = 0
    files: int = 0
    free_files: int = 0
    name_bytes: int = 255


class FileSystem(Protocol):
    """A file system, as the workers call it. All methods but the first two may be missing.

    The object is made once, before the workers are forked; each worker then works on its own copy,
    several at a time. What they are to share must lie outside of the process, or in shared memory. Where
    an attribute `keeps_worker` is True, a worker is there whenever a guest is.

    Inodes are numbers that the class chooses; 1 is the root. They are all that a request names: there are
    no handles of open files, and nobody says what the guest has forgotten. A method says no with an
    `OSError`, whose errno is what the guest gets (of `FileNotFoundError` and its like the class will do).
    Any other exception, and what is not of the type that is to be returned, becomes EIO and a line in the
    log. What there is no method for is answered with ENOSYS.

    A request may be carried out twice, where a worker has died over it. "It is there already" is taken
    for an outcome then, and so is "it is gone".
    """

    def lookup(self, parent: int, name: str, /) -> Attributes:
        """What a name in a folder stands for; `FileNotFoundError` where it stands for nothing."""

    def getattr(self, inode: int, /) -> Attributes:
        """What an inode is."""

    def setattr(self, inode: int, changes: Changes, /) -> Attributes:
        """Change it; what it is then."""

    def readdir(self, inode: int, /) -> Iterable[str]:
        """All names in a folder, in any order. What they stand for is looked up."""

    def open(self, inode: int, flags: int, /) -> None:
        """Somebody opens a file; `flags` are those of open(2)."""

    def read(self, inode: int, offset: int, size: int, /) -> bytes:
        """So many bytes of a file, or anything that has a buffer with them; fewer only at its end."""

    def write(self, inode: int, offset: int, data: bytes, /) -> int:
        """Write to a file; how many bytes were written."""

    def create(self, parent: int, name: str, mode: int, caller: Caller, /) -> Attributes:
        """Make a file. `FileExistsError` where the name is there."""

    def mkdir(self, parent: int, name: str, mode: int, caller: Caller, /) -> Attributes:
        """Make a folder."""

    def mknod(self, parent: int, name: str, mode: int, rdev: int, caller: Caller, /) -> Attributes:
        """Make a file, a device, a pipe or a socket, as the mode says."""

    def symlink(self, parent: int, name: str, target: str, caller: Caller, /) -> Attributes:
        """Make a symbolic link."""

    def link(self, inode: int, new_parent: int, new_name: str, /) -> Attributes:
        """Give a file another name; what it is then."""

    def readlink(self, inode: int, /) -> str:
        """Where a symbolic link leads."""

    def unlink(self, parent: int, name: str, /) -> None:
        """Remove a name that is not a folder's."""

    def rmdir(self, parent: int, name: str, /) -> None:
        """Remove an empty folder."""

    def rename(self, parent: int, name: str, new_parent: int, new_name: str, flags: int, /) -> None:
        """Move a name, over another one if that is there; `flags` are those of renameat2(2)."""

    def flush(self, inode: int, /) -> None:
        """Somebody has closed a file."""

    def release(self, inode: int, /) -> None:
        """Nobody has it open any more that had opened it once."""

    def fsync(self, inode: int, data_only: bool, /) -> None:
        """Return when it would survive a power cut."""

    def syncfs(self) -> None:
        """The same of all files."""

    def statfs(self) -> StatFs:
        """How much room there is."""

    def access(self, inode: int, mask: int, caller: Caller, /) -> None:
        """Whether somebody may use a file; a guest that goes by the modes never asks."""

    def getxattr(self, inode: int, name: str, /) -> bytes:
        """An extended attribute; OSError(ENODATA) where it isn't there."""

    def setxattr(self, inode: int, name: str, value: bytes, flags: int, /) -> None:
        """Set one; `flags` are those of setxattr(2)."""

    def listxattr(self, inode: int, /) -> Iterable[str]:
        """Their names."""

    def removexattr(self, inode: int, name: str, /) -> None:
        """Remove one."""

    def fallocate(self, inode: int, mode: int, offset: int, size: int, /) -> None:
        """Have room for that part of a file; `mode` is fallocate(2)'s."""

    def lseek(self, inode: int, offset: int, whence: int, /) -> int:
        """Where data or a hole begins (SEEK_DATA, SEEK_HOLE)."""

    def copy_file_range(self, inode: int, offset: int, new_inode: int, new_offset: int, size: int, /) -> int:
        """Copy a part of a file into another; how many bytes were copied."""

    def start_worker(self) -> None:
        """Called once in each worker, before its first request and before it is in its sandbox."""

    def close(self) -> None:
        """Called once in the process that made the object, when all others have ended."""
