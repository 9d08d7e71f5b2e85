"""Named POSIX shared memory: created, attached, and gone whatever way its engine ends.

A segment begins with a header (magic, layout version, kind, size) that is checked at every attach. Its
creator holds an exclusive `flock` on the segment's open file description; forked children share that
description, so the lock lasts exactly as long as one process of the engine lives. A segment whose lock
can be taken is an orphan of a killed engine: `remove_orphan` unlinks it at the next start.

The folder of all segments belongs to everybody, so a name says nothing about what stands behind it. It is
opened without waiting for anybody (another user's lease, a FIFO), and is a plain file or is not used.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Collection
from types import TracebackType

from ringblk.shm.platform.shared_memory import (
    create_named,
    give_back,
    open_named,
    rename_named,
    reserve,
    unlink_named,
)
from ringblk.shm.segments.shared_folder import FOLDER, file_fault

MAGIC = b"RINGBLK\0"
HEADER = struct.Struct("<8sIIQ")
"""Magic, layout version, kind (four letters) and size in bytes; the first 24 bytes of every segment."""
SUBJECT = struct.Struct("<QQ")
"""Behind it, in every layout version: what the owner works on, for whoever can read nothing else."""
HEADER_BYTES = 64
"""What a segment's own layout leaves to the header."""

_NO_ROOM_HINT = f"make room in {FOLDER} (rm, mount -o remount,size=), or ask for fewer or shorter queues"


class SegmentError(Exception):
    """A segment cannot be created or attached.

    The message says which and why. On attach: check the name, and that both programs are of the same
    version; on create: check the room in the shared memory file system.
    """


class SegmentTaken(SegmentError):  # noqa: N818
    """The name belongs to something that cannot be removed: take another one."""


class Segment:
    """One mapped POSIX shared memory segment. Close it when done; a creator also unlinks it."""

    def __init__(self, name: str, fd: int, size_bytes: int, *, is_creator: bool) -> None:
        """Map `fd`, which is the segment's from then on; without one (-1), zeroes of this process's own."""
        self.name = name
        self.fd = fd
        self.size_bytes = size_bytes
        self.is_creator = is_creator
        self.memory = mmap.mmap(fd, size_bytes)

    @classmethod
    def create(
        cls, name: str, kind: str, layout_version: int, size_bytes: int, memory_bytes: int | None = None
    ) -> "Segment":
        """Create the segment `name` (without slash), zero-filled but for its header, and lock it.

        All of it has memory, or its first `memory_bytes`; `allocate` gets the rest. Raises
        `SegmentTaken` when the name belongs to a living engine or another user, `SegmentError` when there is
        no room.
        """
        remove_orphan(name)
        try:
            fd = _create_locked(name, size_bytes, size_bytes if memory_bytes is None else memory_bytes)
        except FileExistsError as error:
            raise SegmentTaken(f"cannot create shared memory segment {name}: {error.strerror}") from error
        except OSError as error:
            hint = f"; {_NO_ROOM_HINT}" if error.errno in (errno.ENOSPC, errno.ENOMEM) else ""
            reason = error.strerror or error
            raise SegmentError(
                f"cannot create shared memory segment {name} of {size_bytes} bytes: {reason}{hint}"
            ) from error
        segment = cls(name, fd, size_bytes, is_creator=True)
        HEADER.pack_into(segment.memory, 0, MAGIC, layout_version, _kind_code(kind), size_bytes)
        return segment

    @classmethod
    def attach(cls, name: str, kind: str, layout_version: int) -> "Segment":
        """Map an existing segment by name. Raises `SegmentError`."""
        fd = open_segment(name)
        try:
            return cls.attach_fd(fd, kind, layout_version, name=name)
        except SegmentError:
            os.close(fd)
            raise

    @classmethod
    def attach_fd(cls, fd: int, kind: str, layout_version: int, name: str = "") -> "Segment":
        """Map an existing segment by a descriptor, which the `Segment` then owns. Raises `SegmentError`.

        For who trusts its owner: one that is cut off later is a SIGBUS for who touches it.
        """
        size_bytes = checked_size_bytes(fd, kind, layout_version, name)
        try:
            return cls(name, fd, size_bytes, is_creator=False)
        except (OSError, ValueError) as error:  # cut off meanwhile
            raise SegmentError(f"shared memory segment {name or fd} cannot be mapped: {error}") from error

    def own(self, former_name: str, name: str) -> None:
        """Be its creator from now on, in place of one that has died, and call it by another name."""
        rename_named(former_name, name)
        self.name = name
        self.is_creator = True

    @property
    def subject(self) -> tuple[int, int]:
        """Two numbers for what its owner works on; zeroes: nothing was said."""
        return _subject_in(self.memory)

    def set_subject(self, first: int, second: int) -> None:
        """Say what its owner, who calls this, works on."""
        SUBJECT.pack_into(self.memory, HEADER.size, first, second)

    def allocate(self, offset_bytes: int, size_bytes: int) -> None:
        """Have memory for a part that had none. Raises `OSError`, with what to do where there is no room."""
        try:
            reserve(self.fd, offset_bytes, size_bytes)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.ENOMEM):
                raise
            raise OSError(
                error.errno, f"{size_bytes} bytes of shared memory: {error.strerror}; {_NO_ROOM_HINT}"
            ) from error

    def give_back(self, offset_bytes: int, size_bytes: int) -> None:
        """Let go of the memory of whole pages, which nobody touches until it was allocated again.

        They read as zeroes from then on.
        """
        give_back(self.memory, offset_bytes, size_bytes)

    def unlink(self) -> None:
        """Remove the name; the memory lives until the last process unmaps it."""
        with contextlib.suppress(FileNotFoundError):
            unlink_named(self.name)

    def close(self) -> None:
        """Unmap and close; the creator removes the name as well. Compiled views must be gone before."""
        if self.is_creator:
            self.unlink()
        with contextlib.suppress(BufferError):  # a view is still held: the process's end unmaps it
            self.memory.close()
        if self.fd >= 0:
            os.close(self.fd)

    def __enter__(self) -> "Segment":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_segment(name: str, owners: Collection[int] | None = None) -> int:
    """Open an existing segment to read and write, without waiting. Raises `SegmentError`.

    With `owners`, only one of these users may be who made it. Who else may put things into the folder cannot
    keep the caller waiting (a lease, a FIFO), nor have it believe in what is no plain file.
    """
    try:
        fd = open_named(name)
    except OSError as error:
        raise SegmentError(f"no shared memory segment {name}: {error.strerror or error}") from error
    try:
        check_segment_file(fd, name, owners)
    except SegmentError:
        os.close(fd)
        raise
    return fd


def check_segment_file(fd: int, name: str, owners: Collection[int] | None = None) -> None:
    """Raise `SegmentError` unless it is a plain file without other names, and of one of these users."""
    info = os.fstat(fd)
    if fault := file_fault(name, info, owners):
        raise SegmentError(fault)
    if info.st_nlink > 1:
        raise SegmentError(f"shared memory segment {name} has other names besides")


def checked_size_bytes(fd: int, kind: str, layout_version: int, name: str = "") -> int:
    """The size that the segment's header says. Raises `SegmentError` where header and file don't fit."""
    called = name or f"of descriptor {fd}"
    header = os.pread(fd, HEADER.size, 0)
    if len(header) < HEADER.size:
        raise SegmentError(f"shared memory segment {called} is empty")
    magic, version, code, size_bytes = HEADER.unpack(header)
    if magic != MAGIC or code != _kind_code(kind):
        raise SegmentError(f"shared memory segment {called} is not a ringblk {kind} segment")
    if version != layout_version:
        raise SegmentError(
            f"shared memory segment {called} has layout version {version}, not {layout_version}"
        )
    if os.fstat(fd).st_size < size_bytes:
        raise SegmentError(f"shared memory segment {called} is shorter than its header says")
    return int(size_bytes)


def read_subject(fd: int, kind: str, name: str) -> tuple[int, tuple[int, int]]:
    """The layout version and subject of a segment of any version. Raises `SegmentError`."""
    header = os.pread(fd, HEADER_BYTES, 0)
    if len(header) < HEADER_BYTES:
        raise SegmentError(f"shared memory segment {name} is empty")
    magic, version, code, _ = HEADER.unpack_from(header)
    if magic != MAGIC or code != _kind_code(kind):
        raise SegmentError(f"shared memory segment {name} is not a ringblk {kind} segment")
    return version, _subject_in(header)


def _subject_in(data: bytes | mmap.mmap) -> tuple[int, int]:
    first, second = SUBJECT.unpack_from(data, HEADER.size)
    return first, second


def remove_orphan(name: str) -> bool:
    """Unlink the segment if no living process holds it; whether it did."""
    with contextlib.suppress(OSError, SegmentError):
        fd = open_segment(name)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink:  # else the name is gone, or that of another segment by now
                unlink_named(name)
                return True
        finally:
            os.close(fd)
    return False


def segment_info(name: str) -> os.stat_result | None:
    """What stat(2) says of what has that name; None where there is nothing. It is not opened for it."""
    try:
        return os.lstat(f"{FOLDER}/{name}")
    except OSError:
        return None


def is_held(fd: int) -> bool:
    """Whether a living process holds the segment open at `fd`, by a description of its own."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def _create_locked(name: str, size_bytes: int, memory_bytes: int) -> int:
    while True:
        fd = create_named(name)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink == 0:  # taken for an orphan between its creation and its lock
                os.close(fd)
                continue
            os.ftruncate(fd, size_bytes)
            reserve(fd, 0, memory_bytes)  # a full file system is an error now, no SIGBUS later
        except OSError:
            os.close(fd)
            unlink_named(name)
            raise
        return fd


def _kind_code(kind: str) -> int:
    return int.from_bytes(kind.encode("ascii").ljust(4)[:4], "little")
