"""The access control list of a file, as Linux keeps it (acl(5)); on other systems none is kept."""

import errno
import os
import sys

_NAME = "system.posix_acl_access"
_NONE = (errno.ENODATA, errno.EOPNOTSUPP, errno.ENOSYS)


def read_access_list(file: int | str | os.PathLike[str]) -> bytes | None:
    """A file's list; None where it has none. Raises `OSError`."""
    if sys.platform != "linux":
        return None
    try:
        return os.getxattr(file, _NAME)
    except OSError as error:
        if error.errno in _NONE:
            return None
        raise


def write_access_list(fd: int, access_list: bytes) -> None:
    """Give a file a list that was read of another. Raises `OSError`."""
    if sys.platform == "linux":  # elsewhere none was read
        os.setxattr(fd, _NAME, access_list)


def remove_access_list(fd: int) -> None:
    """Have a file without one. Raises `OSError`."""
    if sys.platform != "linux":
        return
    try:
        os.removexattr(fd, _NAME)
    except OSError as error:
        if error.errno not in _NONE:
            raise
