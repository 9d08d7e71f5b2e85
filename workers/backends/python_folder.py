"""A file system of a user's own: `--file-system=package.module:Class`, found, made, and checked.

`ringblk.workers.fs.file_system.FileSystem` says what it is; `ringblk.workers.fs.python_executor` calls it.
"""

import os
from collections.abc import Mapping

from ringblk.shm.platform.shared_memory import make_unnamed
from ringblk.workers.backends.answers import Waiting
from ringblk.workers.backends.folder import MEMORY_BYTES
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.user_class import (
    check_methods,
    close_refused,
    find_factory,
    make_object,
    read_method,
)

REQUIRED_METHODS: Mapping[str, tuple[str, ...]] = {"lookup": ("parent", "name"), "getattr": ("inode",)}
"""By name, with what they are called with."""
OPTIONAL_METHODS: Mapping[str, tuple[str, ...]] = {
    "setattr": ("inode", "changes"),
    "readlink": ("inode",),
    "symlink": ("parent", "name", "target", "caller"),
    "mknod": ("parent", "name", "mode", "rdev", "caller"),
    "mkdir": ("parent", "name", "mode", "caller"),
    "unlink": ("parent", "name"),
    "rmdir": ("parent", "name"),
    "rename": ("parent", "name", "new_parent", "new_name", "flags"),
    "link": ("inode", "new_parent", "new_name"),
    "open": ("inode", "flags"),
    "read": ("inode", "offset", "size"),
    "write": ("inode", "offset", "data"),
    "statfs": (),
    "release": ("inode",),
    "fsync": ("inode", "data_only"),
    "setxattr": ("inode", "name", "value", "flags"),
    "getxattr": ("inode", "name"),
    "listxattr": ("inode",),
    "removexattr": ("inode", "name"),
    "flush": ("inode",),
    "readdir": ("inode",),
    "access": ("inode", "mask", "caller"),
    "create": ("parent", "name", "mode", "caller"),
    "fallocate": ("inode", "mode", "offset", "size"),
    "lseek": ("inode", "offset", "whence"),
    "copy_file_range": ("inode", "offset", "new_inode", "new_offset", "size"),
    "syncfs": (),
    "start_worker": (),
    "close": (),
}
_ITERATED = ("readdir", "listxattr")
_NEVER_CALLED = {
    "forget": "inodes are numbers that stay what they are",
    "batch_forget": "inodes are numbers that stay what they are",
    "opendir": "folders are read without being opened",
    "releasedir": "folders are read without being opened",
    "fsyncdir": "fsync is called for folders too",
    "readdirplus": "what readdir names is looked up",
    "init": "use __init__ or start_worker",
    "destroy": "use close",
    "rename2": "rename has the flags",
    "tmpfile": "guests do without",
    "getlk": "locks are the guest's own",
    "setlk": "locks are the guest's own",
    "setlkw": "locks are the guest's own",
    "ioctl": "guests are told that there are none",
    "poll": "files are always ready",
    "bmap": "there are no blocks",
}
"""Other names of FUSE's: a class that has such a method believes in something that does not happen."""


class PythonFolderBackend(NativeBackend):
    """Has `file_system`, an object that is complete, for what is forked from here."""

    def __init__(self, file_system: object) -> None:
        self.file_system = file_system
        wants_worker = getattr(file_system, "keeps_worker", False)
        if type(wants_worker) is not bool:
            raise BackendError(f"keeps_worker is {wants_worker!r}, not True or False")
        self._wants_worker = wants_worker
        self.memory_fd = make_unnamed("ringblk-share", MEMORY_BYTES)

    def waiting(self) -> Waiting:
        """Nobody knows what a user's code does."""
        return Waiting(reason="a file system of a user's own may block")

    @property
    def keeps_worker(self) -> bool:
        """What the object says of itself; False where it says nothing."""
        return self._wants_worker

    @property
    def fds(self) -> tuple[int, ...]:
        """What is known of its inodes."""
        return (self.memory_fd,)

    def start_worker(self) -> None:
        """Call the object's own hook, if it has one; what that raises is the worker's to report."""
        _call_hook(self.file_system, "start_worker")

    def close(self) -> None:
        """Call the object's own `close`, if it has one, the first time; what that raises is the caller's."""
        if self.memory_fd >= 0:
            os.close(self.memory_fd)
            self.memory_fd = -1
            _call_hook(self.file_system, "close")


def _call_hook(file_system: object, name: str) -> None:
    hook = getattr(file_system, name, None)
    if hook is not None and (result := hook()) is not None:
        raise TypeError(f"{name} returned an object of type {type(result).__name__}; it must return None")


def load_file_system(name: str, arguments: Mapping[str, str]) -> PythonFolderBackend:
    """Make the file system `package.module:Class`, ready for the workers, as `loader.load_backend` does.

    Raises `BackendError`.
    """
    subject = f"file system {name}"
    file_system = make_object(subject, find_factory(subject, name), arguments)
    try:
        check_file_system(file_system)
        return PythonFolderBackend(file_system)
    except BackendError as error:
        close_refused(file_system)
        raise BackendError(f"{subject}: {error}") from error


def check_file_system(file_system: object) -> None:
    """`BackendError` names a method that is missing, can't be called as it will be, or never would be."""
    check_methods(file_system, REQUIRED_METHODS, OPTIONAL_METHODS, _ITERATED)
    for method, reason in _NEVER_CALLED.items():
        if callable(read_method(file_system, method)):
            raise BackendError(f"{method} would never be called: {reason}")
