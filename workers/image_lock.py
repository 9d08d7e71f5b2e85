"""The lock that keeps two programs off one image.

An engine holds it for as long as any of its processes lives, and so it is the fence between engines: what a
dying one still has under way lands before the next one may begin. It is an open file description lock over
the whole file (fcntl(2), "Open file description locks"): forked children share it, closing another
descriptor of the same file does not drop it, and the kernel drops it with the last descriptor. QEMU's own
image locks are of the same kind, so an image that QEMU has open for writing is refused to us and the other
way round.
"""

import errno
import fcntl
import os
import struct

_STRUCT_FLOCK = "hhqqi4x"  # l_type, l_whence, l_start, l_len (0: to the end, however far), l_pid (must be 0)
_BUSY = (errno.EACCES, errno.EAGAIN)


class ImageLocked(Exception):  # noqa: N818
    """Another program holds the image. Stop it, or use another image; asking again at once will not help."""


def lock_image(fd: int, read_only: bool) -> None:
    """Lock the whole image behind `fd`: shared if `read_only`, else exclusive (`fd` must then be writable).

    Returns at once. Raises ImageLocked if somebody else's lock stands against it, OSError where the file
    system has no locks. Locking again through the same open file description changes the lock's kind.
    """
    try:
        if hasattr(fcntl, "F_OFD_SETLK"):
            kind = fcntl.F_RDLCK if read_only else fcntl.F_WRLCK
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_STRUCT_FLOCK, kind, os.SEEK_SET, 0, 0, 0))
        else:  # macOS: flock belongs to the open file description too
            fcntl.flock(fd, (fcntl.LOCK_SH if read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            raise ImageLocked("the image is in use by a running engine or another program") from None
        raise


def locked_inodes(kind: str = "OFDLCK") -> set[int]:
    """The inodes of all files locked in this way on this host (proc_locks(5)); none where it cannot be told.

    With "FLOCK" those that flock(2) has locked.

    Without their devices: those are other ones there than stat(2)'s, on btrfs for example.
    """
    try:
        with open("/proc/locks") as locks:
            return {int(line.split()[-3].rpartition(":")[2]) for line in locks if f" {kind} " in line} - {0}
    except OSError:
        return set()


def is_image_locked(fd: int) -> bool:
    """Whether a lock that `lock_image(fd, read_only=False)` would run into is held; takes none.

    Only a hint: it may have changed by the time the caller looks. Where the kernel cannot tell without
    locking (no F_OFD_GETLK), the answer is False.
    """
    if not hasattr(fcntl, "F_OFD_GETLK"):
        return False
    asked = struct.pack(_STRUCT_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked)
    return bool(struct.unpack(_STRUCT_FLOCK, answer)[0] != fcntl.F_UNLCK)
