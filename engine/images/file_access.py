"""Who may do what with a file: owner, mode and access control list, and how they are handed on.

An access control list is kept as the kernel gives it (acl(5), the `system.posix_acl_access` attribute). Where
a file has one, the mode's group bits are its mask and not what the owning group may do.
"""

import os
import stat
from typing import NamedTuple

from ringblk.shm.platform.access_list import read_access_list, remove_access_list, write_access_list

NEW_MODE = 0o666
"""Of a new file, less the umask."""


class FileAccess(NamedTuple):
    """Owner, group, permission bits and access control list (None: there is none) of a file."""

    user: int
    group: int
    mode: int
    acl: bytes | None

    def no_more_than(self, mode: int, group: int) -> int:
        """Return `mode` less what this file allows to nobody, for a new file that belongs to `group`.

        Another group, or whoever an access control list means, gets no more than all others.
        """
        allowed = self.mode & 0o666
        if group != self.group or self.acl is not None:
            allowed &= ~0o070 | (allowed & 0o007) << 3
        return mode & allowed


def read_access(file: int | str | os.PathLike[str]) -> FileAccess:
    """Read it from a path or descriptor. Raises OSError."""
    found = os.stat(file)
    return FileAccess(found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode), read_access_list(file))


def check_owner_can_be_kept(fd: int, access: FileAccess) -> None:
    """Raise PermissionError if `fd`, a file of our own, could not be given to another's owner and group."""
    own = os.fstat(fd)
    if (own.st_uid, own.st_gid) != (access.user, access.group):
        os.fchown(fd, access.user, access.group)
        os.fchown(fd, own.st_uid, own.st_gid)  # until it is whole it stays ours


def keep_access(fd: int, access: FileAccess) -> None:
    """Make owner, mode and access control list of `fd` those of `access`. Raises OSError."""
    own = os.fstat(fd)
    if (own.st_uid, own.st_gid) != (access.user, access.group):
        os.fchown(fd, access.user, access.group)  # first: it clears bits of the mode
    if access.acl is None:
        remove_access_list(fd)
        os.fchmod(fd, access.mode)
    else:
        os.fchmod(fd, access.mode)
        write_access_list(fd, access.acl)


def set_new_access(fd: int, source: FileAccess | None) -> None:
    """Give a new file the mode that it would have been created with, less what its source does not allow."""
    mode = NEW_MODE & ~_umask()
    if source is not None:
        mode = source.no_more_than(mode, os.fstat(fd).st_gid)
        remove_access_list(fd)  # one that the directory hands on may name more people than the source does
    os.fchmod(fd, mode)


def _umask() -> int:
    mask = os.umask(0o077)  # there is no way to ask that does not set it
    os.umask(mask)
    return mask
