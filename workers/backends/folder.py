"""A folder that is shared with a guest: what all processes of its drive have open for it."""

import contextlib
import os
import socket

from ringblk.shm.platform import sandbox_calls
from ringblk.shm.platform.message_end import message_pair
from ringblk.shm.platform.shared_memory import make_unnamed
from ringblk.workers.backends.answers import Waiting
from ringblk.workers.backends.file_waiting import folder_waiting
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.open_storage import OpenFolder
from ringblk.workers.sandbox.confinement import check_call

MEMORY_BYTES = 1 << 30
"""Addresses for what its processes know of it (`workers/fs/request.pxd`); memory comes as it is touched."""

QUEUE_BYTES = 64 << 20
"""Of the kernel's memory, for descriptors that are kept: about 70,000."""
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h


class FolderBackend(NativeBackend):
    """The folder at `path`, which is not of blocks. Raises `BackendError` and `OSError`."""

    def __init__(self, path: str) -> None:
        self._path = os.path.realpath(path)
        self.folder_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.memory_fd = self.put_fd = self.take_fd = -1
        try:
            _check_handles(path, self.folder_fd)
            self.memory_fd = make_unnamed("ringblk-share", MEMORY_BYTES)
            self.put_fd, self.take_fd = _make_queue()
        except BaseException:
            self.close()
            raise

    @classmethod
    def take(
        cls, storage: OpenFolder, folder_fd: int, memory_fd: int, put_fd: int, take_fd: int
    ) -> "FolderBackend":
        """The same of what another process has handed over: the descriptors are this one's from now on."""
        backend = cls.__new__(cls)
        backend._path = storage.path
        backend.folder_fd = folder_fd
        backend.memory_fd = memory_fd
        backend.put_fd, backend.take_fd = put_fd, take_fd
        return backend

    def waiting(self) -> Waiting:
        """By where the folder is."""
        return folder_waiting(self.folder_fd)

    @property
    def fds(self) -> tuple[int, ...]:
        """The folder, what is known of it, and the queue of its files without names."""
        return self.folder_fd, self.memory_fd, self.put_fd, self.take_fd

    @property
    def reachable_paths(self) -> tuple[str, ...]:
        """The folder."""
        return (self._path,)

    def confine_process(self) -> None:
        """No path leads out of the folder from now on. Raises `OSError`."""
        check_call("chroot", sandbox_calls.enter_root(self.folder_fd))

    def hand_over(self) -> tuple[OpenFolder, tuple[int, ...]]:
        """Its descriptors are all that there is."""
        return OpenFolder(path=self._path), self.fds

    def close(self) -> None:
        """Close them."""
        for fd in self.fds:
            if fd >= 0:
                os.close(fd)
        self.folder_fd = self.memory_fd = self.put_fd = self.take_fd = -1


def _make_queue() -> tuple[int, int]:
    """A queue for descriptors (`workers/fs/nameless.pyx`): the end to put into, and the one to take from."""
    put, take = message_pair()
    with contextlib.suppress(OSError):  # only root may have it so long
        put.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, QUEUE_BYTES)
    return put.detach(), take.detach()


def _check_handles(path: str, folder_fd: int) -> None:
    """Raise `BackendError` where files cannot be opened by their handles, on which all else stands."""
    from ringblk.shm.platform.handles import handle_fault  # only who opens folders has a use for it

    if fault := handle_fault(folder_fd):
        raise BackendError(f"{path}: {fault}")
