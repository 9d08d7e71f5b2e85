"""Descriptors of this process: listed, told apart, opened once more, used in place of a path."""

import contextlib
import errno
import fcntl
import os
import socket
import stat

_LISTED_IN = "/proc/self/fd"
FOLDER = _LISTED_IN if os.path.isdir(_LISTED_IN) else "/dev/fd"
PATH_ONLY = getattr(os, "O_PATH", os.O_RDONLY)
"""To open a folder for nothing but to name it."""


def kind_of(fd: int) -> str:
    """What the system calls it: a path, or a word for what has none; empty where it does not say."""
    with contextlib.suppress(OSError):
        return os.readlink(f"{_LISTED_IN}/{fd}")
    return ""


def path_of(fd: int) -> str:
    """The path of the file that it is open on, where that has one still; empty where it cannot be told."""
    if hasattr(fcntl, "F_GETPATH"):
        return os.fsdecode(fcntl.fcntl(fd, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0"))
    return os.path.realpath(f"{_LISTED_IN}/{fd}")


def reopen(fd: int, flags: int) -> int:
    """Open what it is open on once more, as an open file of its own. Raises `OSError`."""
    if hasattr(fcntl, "F_GETPATH"):
        again = os.open(path_of(fd), flags | os.O_CLOEXEC)
        if os.path.sameopenfile(again, fd):
            return again
        os.close(again)
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    return os.open(f"{FOLDER}/{fd}", flags | os.O_CLOEXEC)


def open_descriptors() -> set[int]:
    """All that this process has open."""
    return {int(name) for name in os.listdir(FOLDER) if _is_open(int(name))}


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False  # the descriptor of the listing itself
    return True


def own_socket_path(path: str, uid: int, gid: int) -> None:
    """Give a socket's path to a user. Raises `OSError`, `FileExistsError` for what is no socket.

    Its folder may be the user's, who could put a link to something of root's in the socket's place.
    """
    taken = FileExistsError(errno.EEXIST, "something else has taken the socket's place", path)
    if not hasattr(os, "O_PATH"):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise taken
        os.chown(path, uid, gid, follow_symlinks=False)
        return
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise taken
        os.chown(f"{_LISTED_IN}/{fd}", uid, gid)
    finally:
        os.close(fd)


def bind_in(end: socket.socket, folder_fd: int, name: str) -> None:
    """Bind a unix socket by a name in a folder, whose path may be as long as it likes. Raises `OSError`."""
    if FOLDER == _LISTED_IN:
        end.bind(f"{_LISTED_IN}/{folder_fd}/{name}")
    else:
        end.bind(os.path.join(path_of(folder_fd), name))
