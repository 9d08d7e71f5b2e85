"""A record in shared memory that outlives the process that writes it, until the next reboot.

It is a small file of the shared memory file system (`shm/segments/two_slots.py` has its content). Its writer
holds a `flock` on it, so a record whose lock can be had is one that was left. Names are of no use to a
stranger: a record counts only where its owner is the reader's own user, or one that the reader names, and it
is never waited for.
"""

import contextlib
import errno
import fcntl
import itertools
import os
from collections.abc import Collection
from typing import NamedTuple

from ringblk.shm.segments.segment import is_held
from ringblk.shm.segments.shared_folder import FOLDER, file_fault, shared_names
from ringblk.shm.segments.two_slots import RECORD_BYTES, newest, next_slot
from ringblk.shm.sync.process import crash_point

MAX_RECORD_BYTES = 1 << 18
"""More is not read of any."""
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a lease or a FIFO holds nobody up


class ReadRecord(NamedTuple):
    """What a record says, whether its writer lives, and whose it is."""

    payload: bytes
    is_held: bool
    owner: int


class RecordFile:
    """A record of one's own; `close` it in the end."""

    def __init__(self, name: str, fd: int, data: bytes) -> None:
        self.name = name
        self._fd = fd
        self._data = data

    @classmethod
    def create(cls, prefix: str, payload: bytes, *, record_bytes: int = RECORD_BYTES) -> "RecordFile":
        """Make a record whose name begins with `prefix`, with room for all that it may ever hold.

        Who is killed here leaves an empty one, or a whole one. Raises `OSError`, and `ValueError` for a
        payload that is too long.
        """
        offset_bytes, slot = next_slot(bytes(record_bytes), payload)
        data = (bytes(offset_bytes) + slot).ljust(record_bytes, b"\0")
        for number in itertools.count():
            name = f"{prefix}{number}"
            try:
                fd = os.open(_path(name), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except FileExistsError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                if os.fstat(fd).st_nlink == 0:  # taken for one that was left, before it was locked
                    os.close(fd)
                    continue
                _write(fd, data, 0)
            except OSError:
                os.close(fd)
                os.unlink(_path(name))
                raise
            return cls(name, fd, data)
        raise AssertionError("there is always another number")

    def fileno(self) -> int:
        """The record's descriptor."""
        return self._fd

    def write(self, payload: bytes) -> None:
        """Replace the payload. Raises `OSError`; the former one stands then."""
        former = newest(self._data)
        if former is not None and former[1] == payload:
            return
        offset_bytes, slot = next_slot(self._data, payload)
        _write(self._fd, slot, offset_bytes)
        end = offset_bytes + len(slot)
        self._data = self._data[:offset_bytes] + slot + self._data[end:]

    def close(self, *, keep: bool) -> None:
        """Let go of it; leave it for whoever comes later, or remove it.

        Who has taken on another user since may not remove it: it is empty then, and the next one does.
        """
        if not keep:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
                os.unlink(_path(self.name))
        os.close(self._fd)


def _write(fd: int, data: bytes, offset_bytes: int) -> None:
    if os.pwrite(fd, data, offset_bytes) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    crash_point("record: slot written")


def read_record(name: str, trusted_users: Collection[int] = ()) -> ReadRecord | None:
    """A record as it stands; None: there is none, or it is not ours to believe."""
    fd = _open_trusted(name, trusted_users)
    if fd is None:
        return None
    try:
        found = newest(os.pread(fd, MAX_RECORD_BYTES, 0))
        return ReadRecord(found[1], is_held(fd), os.fstat(fd).st_uid) if found else None
    except OSError:
        return None
    finally:
        os.close(fd)


def remove_record(name: str, trusted_users: Collection[int] = ()) -> None:
    """Remove a record that was left; one whose writer lives stays."""
    fd = _open_trusted(name, trusted_users)
    if fd is None:
        return
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink:  # else the name is gone, or that of another record by now
                os.unlink(_path(name))
    finally:
        os.close(fd)


def remove_empty_records(prefix: str) -> None:
    """Remove what is left of records that were let go of."""
    for name in shared_names(prefix):
        with contextlib.suppress(OSError):
            if os.lstat(_path(name)).st_size == 0:
                remove_record(name)


def _open_trusted(name: str, trusted_users: Collection[int]) -> int | None:
    """Open a record of our own user's or of one of these; looked at before it is opened, and again after."""
    users = {os.geteuid(), *trusted_users}
    try:
        if file_fault(name, os.lstat(_path(name)), users):
            return None
        fd = os.open(_path(name), _READ_FLAGS)
    except OSError:
        return None
    if file_fault(name, os.fstat(fd), users):
        os.close(fd)
        return None
    return fd


def _path(name: str) -> str:
    return os.path.join(FOLDER, name)
