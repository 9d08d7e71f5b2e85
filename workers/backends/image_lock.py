"""The lock that keeps two programs off one image.

An engine holds it for as long as any of its processes lives, and so it is the fence between engines: what a
dying one still has under way lands before the next one may begin. It is an open file description lock over
the whole file (fcntl(2), "Open file description locks"): forked children share it, closing another
descriptor of the same file does not drop it, and the kernel drops it with the last descriptor.

QEMU's own image locks are of the same kind, but shared ones: a program holds byte 100 + N for each permission
N that it uses, and byte 200 + N for each that it does not allow others (QEMU, block/file-posix.c). A QEMU
that writes holds byte 101. Our exclusive lock runs into it; our shared lock does not, and asks for it. Of
QEMU's bytes the shared lock has 201 and 203 alone: who would write or resize is refused, and a QEMU that
reads is not, as it would be by byte 200.

A guest moves from one engine to another, and both have its image open meanwhile. So an engine that may give
an image up locks it in two parts. It *announces* itself with a shared lock on byte 201, for as long as it has
the image open: that keeps off all who want the image for good, QEMU too. It *holds* the image with an
exclusive lock on the bytes before: one engine at a time, and that lock is the fence between engines.
"""

import errno
import fcntl

from ringblk.shm.platform.file_locks import (
    HAS_RECORD_LOCKS,
    NONE,
    READ,
    TO_THE_END,
    WRITE,
    get_lock,
    set_lock,
)
from ringblk.workers.backends.file_waiting import is_network_file_system

_READER_PIECES = ((0, 100), (201, 1), (203, 1))  # 203: permission 3 is BLK_PERM_RESIZE
_NO_READER_PIECES = ((100, 101), (202, 1), (204, TO_THE_END))
_BUSY = (errno.EACCES, errno.EAGAIN)
_QEMU_WRITE_BYTE = 101  # held, shared, by a QEMU that writes: permission 1 is BLK_PERM_WRITE
_ANNOUNCED_BYTE = 201  # held, shared, by who lets nobody else write: also BLK_PERM_WRITE
IN_USE = "the image is in use by a running engine or another program"


class ImageLocked(Exception):  # noqa: N818
    """Another program holds the image. Stop it, or use another image; asking again at once will not help."""


def lock_image(fd: int, read_only: bool) -> None:
    """Lock the image behind `fd`: shared if `read_only`, else exclusive (`fd` must then be writable).

    Returns at once. Raises ImageLocked if somebody else's lock stands against it, a QEMU that writes
    included, and OSError where the file system has no locks. Locking again through the same open file
    description changes the lock's kind.
    """
    try:
        if HAS_RECORD_LOCKS:
            (_lock_shared if read_only else _lock_exclusive)(fd)
        else:  # flock(2) belongs to the open file description too
            fcntl.flock(fd, (fcntl.LOCK_SH if read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            raise ImageLocked(IN_USE) from None
        raise


def _lock_exclusive(fd: int) -> None:
    set_lock(fd, WRITE, 0, TO_THE_END)


def _lock_shared(fd: int) -> None:
    try:
        for piece in _READER_PIECES:
            set_lock(fd, READ, *piece)
        for piece in _NO_READER_PIECES:
            set_lock(fd, NONE, *piece)
        # Lock first, then ask: QEMU takes byte 101, then asks for 201, so one of the two sees the other.
        check_not_written(fd)
    except BaseException:
        set_lock(fd, NONE, 0, TO_THE_END)
        raise


def check_not_written(fd: int) -> None:
    """Raise ImageLocked if another program holds the image to write to it; takes no lock."""
    if not HAS_RECORD_LOCKS:
        return
    kind, start_bytes, length_bytes = get_lock(fd, _QEMU_WRITE_BYTE, 1)
    # A version before this one held its shared lock on the whole file: a reader, and nothing to refuse.
    is_reader = kind == READ and (start_bytes, length_bytes) == (0, TO_THE_END)
    if kind != NONE and not is_reader:
        raise ImageLocked(IN_USE)


class ImageLock:
    """What an engine does with the lock of an image that it has open. Each call returns at once.

    They raise `ImageLocked` where another's lock is in the way, `OSError` where the file system has no locks.
    """

    def __init__(self, fd: int, read_only: bool) -> None:
        self._fd = fd
        self._read_only = read_only

    @property
    def can_be_given_up(self) -> bool:
        """Whether it has the two parts: readers share an image anyway."""
        return not self._read_only and HAS_RECORD_LOCKS

    @property
    def is_shared_between_hosts(self) -> bool:
        """Whether other hosts may have the file open as well, each with a page cache of its own."""
        return is_network_file_system(self._fd)

    def lock(self) -> None:
        """Have the image for as long as any process has it open (`lock_image`)."""
        lock_image(self._fd, self._read_only)

    def claim(self) -> None:
        """Announce oneself and hold it, at the start."""
        self.announce()
        self.hold()

    def announce(self) -> None:
        """Keep off all but those that announce themselves."""
        self._set(READ, _ANNOUNCED_BYTE, 1)

    def hold(self) -> None:
        """Be the one that has it; `announce` comes first."""
        self._set(WRITE, 0, _ANNOUNCED_BYTE)

    def give_up(self) -> None:
        """Let another hold it, once nothing that was begun can land any more."""
        self._set(NONE, 0, _ANNOUNCED_BYTE)

    def is_held_by_another(self) -> bool:
        """Whether another engine holds it that may give it up."""
        kind, start_bytes, length_bytes = get_lock(self._fd, 0, _ANNOUNCED_BYTE)
        return kind == WRITE and (start_bytes, length_bytes) == (0, _ANNOUNCED_BYTE)

    def is_in_the_way(self) -> bool:
        """Whether an engine would have to wait for this image, or be refused. Only a hint; takes no lock."""
        if not self.can_be_given_up:
            return is_image_locked(self._fd, self._read_only)
        is_held = get_lock(self._fd, 0, _ANNOUNCED_BYTE)[0] != NONE
        return is_held or get_lock(self._fd, _ANNOUNCED_BYTE, 1, READ)[0] != NONE

    def _set(self, kind: int, start_bytes: int, length_bytes: int) -> None:
        try:
            set_lock(self._fd, kind, start_bytes, length_bytes)
        except OSError as error:
            if error.errno in _BUSY:
                raise ImageLocked(IN_USE) from None
            raise


def is_image_locked(fd: int, read_only: bool = False) -> bool:
    """Whether a lock that `lock_image` would run into is held; takes none. Raises OSError as that does.

    Only a hint: it may have changed by the time the caller looks. Where the kernel cannot tell without
    locking (`HAS_RECORD_LOCKS`), the answer is False.
    """
    if not HAS_RECORD_LOCKS:
        return False
    if not read_only:
        return get_lock(fd, 0, TO_THE_END)[0] != NONE
    try:
        check_not_written(fd)
    except ImageLocked:
        return True
    around = ((0, _QEMU_WRITE_BYTE), (_QEMU_WRITE_BYTE + 1, TO_THE_END))
    return any(get_lock(fd, *piece, READ)[0] != NONE for piece in around)
