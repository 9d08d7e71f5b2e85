"""The state segments of this machine's drives, whatever else stands in the folder that all may write to.

A segment is believed where this process's user made it, or where this is root, who looks at everybody's. Its
name says which process made it; the name may be gone (`rm`, systemd's RemoveIPC), and then it is found by the
descriptor that its supervisor holds.
"""

import contextlib
import os
import re
from collections.abc import Iterator

import msgspec

from ringblk.engine.devices.device_kind import DeviceKind
from ringblk.engine.drives.names import SEGMENT_PATTERN, other_segment_name, segment_name, supervisor_of
from ringblk.engine.options.drive_names import SOLE_DRIVE
from ringblk.shm.platform.kernel_files import locked_inodes
from ringblk.shm.platform.process_table import open_descriptors, process_ids
from ringblk.shm.segments.segment import (
    SegmentError,
    SegmentTaken,
    check_segment_file,
    is_held,
    open_segment,
    read_subject,
    segment_info,
)
from ringblk.shm.segments.shared_folder import FOLDER, shared_names
from ringblk.shm.state.segment import SEGMENT_KIND, SEGMENT_PREFIX, StateSegment

_LINK = re.compile(rf"{re.escape(FOLDER)}/(?P<name>{SEGMENT_PATTERN}) \(deleted\)", re.ASCII)
_NAME_TRIES = 16
_IMAGE_SINCE_VERSION = 5


class DriveSegment(msgspec.Struct, frozen=True):
    """One segment by its name, or by a descriptor of its supervisor's when the name is gone."""

    name: str
    pid: int | None
    """The supervisor that its name tells of."""
    descriptor_path: str | None = None

    @classmethod
    def named(cls, name: str) -> "DriveSegment":
        """The one of this name."""
        return cls(name, supervisor_of(name))

    def open(self) -> int:
        """A descriptor of it, the caller's to close. Raises `SegmentError`."""
        if self.descriptor_path is None:
            return open_segment(self.name, _believed_owners())
        try:
            fd = os.open(self.descriptor_path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise SegmentError(f"no shared memory segment {self.name}: {error.strerror or error}") from error
        try:
            check_segment_file(fd, self.name, _believed_owners())
        except SegmentError:
            os.close(fd)
            raise
        return fd

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        fd = self.open()
        try:
            yield fd
        finally:
            os.close(fd)

    def owner(self) -> int | None:
        """The user whose it is; None: it cannot be opened."""
        with contextlib.suppress(SegmentError), self._opened() as fd:
            return os.fstat(fd).st_uid
        return None

    def is_held(self) -> bool:
        """Whether a process of the engine that made it still lives."""
        with contextlib.suppress(SegmentError), self._opened() as fd:
            return is_held(fd)
        return False

    def image(self) -> tuple[int, int] | None:
        """The image that its engine uses or used, be it of this version or another; (0, 0): there is none.

        None where it cannot be told, in a version from before that was said in one place. Raises
        `SegmentError` for what is no engine's segment.
        """
        with self._opened() as fd, self._readable():
            version, image = read_subject(fd, SEGMENT_KIND, self.name)
        return image if version >= _IMAGE_SINCE_VERSION else None

    def copy(self) -> StateSegment:
        """What it says at this moment. Raises `SegmentError`."""
        with self._opened() as fd, self._readable():
            return StateSegment.copy_of(fd, self.name)

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SegmentError(f"shared memory segment {self.name} cannot be read: {error}") from error


def create_segment(drive_name: str, slot_count: int, queue_size: int, kind: DeviceKind) -> StateSegment:
    """Make the segment of a drive of this process. Raises `SegmentError`.

    The only drive of an engine has a name that tells its process alone, or another where that is taken.
    """
    name = segment_name(os.getpid()) if drive_name == SOLE_DRIVE else other_segment_name(os.getpid())
    for _ in range(_NAME_TRIES):
        try:
            return StateSegment.create(name, slot_count, queue_size, kind.name, kind.operations)
        except SegmentTaken:  # anybody may have taken that one; nobody can guess these
            name = other_segment_name(os.getpid())
    return StateSegment.create(name, slot_count, queue_size, kind.name, kind.operations)


def adopt_segment(fd: int, former_name: str) -> StateSegment:
    """Have the segment of a drive whose supervisor has died; `fd` is the segment's. Raises `SegmentError`."""
    state = StateSegment.of_fd(fd)
    state.own(former_name, other_segment_name(os.getpid()))
    return state


def named_segments() -> list[DriveSegment]:
    """All whose names stand in the folder and may be believed."""
    return [
        DriveSegment.named(name)
        for name in shared_names(SEGMENT_PREFIX)
        if (info := segment_info(name)) is not None
        and (os.geteuid() == 0 or info.st_uid == os.geteuid())  # before it is opened, which others may notice
    ]


def all_segments() -> list[DriveSegment]:
    """All of them, also those whose names are gone."""
    return [*named_segments(), *(segment for pid in process_ids() for segment in _nameless(pid))]


def segments_of(pid: int) -> list[DriveSegment]:
    """Those that name this process as their engine's supervisor; anybody may have made some of them."""
    return [*(segment for segment in named_segments() if segment.pid == pid), *_nameless(pid)]


def segments_of_others() -> dict[str, int]:
    """Segments that a process holds and that may not be looked at: their names, and whose they are."""
    locked = locked_inodes("FLOCK")
    found = {}
    for name in shared_names(SEGMENT_PREFIX):
        info = segment_info(name)
        if info is not None and info.st_ino in locked and os.geteuid() not in (0, info.st_uid):
            found[name] = info.st_uid
    return found


def _believed_owners() -> set[int] | None:
    return None if os.geteuid() == 0 else {os.geteuid()}


def _nameless(pid: int) -> Iterator[DriveSegment]:
    """The process's own segments whose names are gone."""
    seen = set()
    for descriptor in open_descriptors(pid):
        match = _LINK.fullmatch(descriptor.target)
        if match and int(match["pid"]) == pid and match["name"] not in seen:
            seen.add(match["name"])
            yield DriveSegment(match["name"], pid, descriptor.path)
