"""A folder that tracks a drive's changes, from one session of an engine to the next (docs/changes.md)."""

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import struct
import time
import zlib
from collections.abc import Iterator

import msgspec

from ringblk.shm.platform.file_locks import NONE, WRITE, get_lock, set_lock
from ringblk.shm.platform.shared_memory import reserve
from ringblk.workers.changes.tracker import ChangeTracker
from ringblk.workers.changes.tracker_form import (
    CLEAN,
    OPEN,
    REGIONS_FILE_BYTES,
    ChangesLayout,
    RegionsHeader,
    TrackerDamaged,
    changes_tracker_id,
    new_changes_head,
)
from ringblk.workers.layers.live import this_boot

REGIONS, CHANGES = "regions", "changes"
_NEW = ".new"
_POINT = "point-"
START = "start"
"""The point at which tracking began."""
_POINT_HEAD = struct.Struct("<8sII")
_POINT_MAGIC = b"RBPOINT\n"
_ALIVE_BYTE = 1 << 40
_MODE, _FOLDER_MODE = 0o600, 0o700
_HEADER_BYTES = 512
_ALL = 0xFF


class Point(msgspec.Struct, frozen=True):
    """A point, and what had changed between the one before it and itself."""

    name: str
    number: int
    session: int
    """In which it was set."""
    time_ns: int
    content: bytes = b""
    """The map, compressed."""
    first: int = 0
    """The number of the earliest point that was removed into it; 0: none was."""


class ImageState(msgspec.Struct, frozen=True):
    """What tells whether an image was written to by others: 0 of a block device."""

    inode: int
    modified_ns: int

    @staticmethod
    def of(fd: int) -> "ImageState":
        """Of the image that is open."""
        info = os.fstat(fd)
        if stat.S_ISBLK(info.st_mode):
            return ImageState(0, 0)
        return ImageState(info.st_ino, info.st_mtime_ns)


class TrackerFolder:
    """The folder at a path, whose files are open. Raises `TrackerDamaged`, `OSError`.

    Who changes anything but bits has the folder locked (flock(2)).
    """

    def __init__(self, path: str, *, size_bytes: int | None = None) -> None:
        """Open it; with the drive's size one is made where there is none."""
        self.path = path
        with contextlib.ExitStack() as on_error, _locked(path, is_made=size_bytes is not None) as folder_fd:
            if size_bytes is not None and not _exists(REGIONS, folder_fd):
                _make(folder_fd, size_bytes)
            self.regions_fd = _open(REGIONS, folder_fd)
            on_error.callback(os.close, self.regions_fd)
            self.changes_fd = _open(CHANGES, folder_fd)
            on_error.callback(os.close, self.changes_fd)
            header = self.header()
            layout = ChangesLayout.of(header.size_bytes)
            is_whole = os.fstat(self.changes_fd).st_size == layout.file_bytes
            if not is_whole or changes_tracker_id(os.pread(self.changes_fd, 64, 0)) != header.tracker_id:
                raise TrackerDamaged("its changes are those of another drive, or were cut off")
            if size_bytes is not None and size_bytes != header.size_bytes:
                raise TrackerDamaged(
                    f"tracks a drive of {header.size_bytes} bytes, and this one has {size_bytes}:"
                    " begin anew, with another folder"
                )
            self.tracker = ChangeTracker(self.regions_fd, self.changes_fd, header.size_bytes)
            on_error.pop_all()

    @staticmethod
    def of(path: str, tracker: ChangeTracker) -> "TrackerFolder":
        """The one whose files another process has opened; they are this one's from now on."""
        folder = TrackerFolder.__new__(TrackerFolder)
        folder.path, folder.tracker = path, tracker
        folder.regions_fd, folder.changes_fd = tracker.regions_fd, tracker.changes_fd
        return folder

    def close(self) -> None:
        """Close its files, and let go of the mapping, which has the lock as well."""
        del self.tracker
        os.close(self.regions_fd)
        os.close(self.changes_fd)

    def header(self) -> RegionsHeader:
        """What its file `regions` says now."""
        return RegionsHeader.decode(os.pread(self.regions_fd, _HEADER_BYTES, 0))

    # Sessions.

    def begin(self, image: ImageState) -> None:
        """Track from now on, as the only one who does. Raises `TrackerDamaged` where somebody else does."""
        with _locked(self.path) as folder_fd:
            if not _hold(self.changes_fd):
                raise TrackerDamaged("tracks the changes of a drive that is served already")
            self._begin(folder_fd, image)

    def _begin(self, folder_fd: int, image: ImageState) -> None:
        header = self.header()
        was = ImageState(header.image_inode, header.image_modified_ns)
        if header.state == OPEN:
            self.tracker.add(self._lost(header, _points(folder_fd)))
        elif header.session and image != was:
            self.tracker.add(bytes([_ALL]) * len(self.tracker.content()))
        os.fsync(self.changes_fd)
        # What is known is on the disk: no region is being written to, and only then is there a session.
        self.tracker.forget_regions()
        _write(self.regions_fd, bytes(REGIONS_FILE_BYTES - _HEADER_BYTES), _HEADER_BYTES)
        os.fsync(self.regions_fd)
        self._write_header(header, state=OPEN, session=header.session + 1, boot_id=this_boot(), image=image)

    def end(self, image: ImageState) -> None:
        """The session is over, nothing is under way: all that has changed is in the map on the disk."""
        with _locked(self.path):
            os.fsync(self.changes_fd)
            header = self.header()
            self._write_header(
                header, state=CLEAN, session=header.session, boot_id=header.boot_id, image=image
            )

    def _write_header(
        self, header: RegionsHeader, *, state: int, session: int, boot_id: bytes, image: ImageState
    ) -> None:
        changed = msgspec.structs.replace(
            header,
            state=state,
            session=session,
            boot_id=boot_id,
            image_inode=image.inode,
            image_modified_ns=image.modified_ns,
        )
        _write(self.regions_fd, changed.encode(), 0)
        os.fsync(self.regions_fd)

    def _lost(self, header: RegionsHeader, points: list[Point]) -> bytes:
        """What a session that has not ended well may have changed without a bit of it being there now.

        What was under way when a point was set may have been noted before that point only. Of another boot
        all of each region counts that was written to.
        """
        lost = 0
        for point in points:
            if point.session == header.session:
                lost |= _bits(point)
        size = len(self.tracker.content())
        if header.boot_id != this_boot():
            regions = os.pread(self.regions_fd, REGIONS_FILE_BYTES - _HEADER_BYTES, _HEADER_BYTES)
            shift = ChangesLayout.of(header.size_bytes).region_shift - 12
            whole = (1 << (1 << shift)) - 1
            for region in range(len(regions) * 8):
                if regions[region // 8] >> region % 8 & 1:
                    lost |= whole << (region << shift)
            lost &= (1 << size * 8) - 1
        return lost.to_bytes(size, "little")

    # Points.

    def set_point(self, name: str) -> Point:
        """Have a point from which changes are told, at this moment, whether the drive is served or not.

        What is under way at this moment may count before the point and after it. Raises `TrackerDamaged` for
        a name that there is already.
        """
        with _locked(self.path) as folder_fd:
            points = _points(folder_fd)
            if name in (START, *(point.name for point in points)):
                raise TrackerDamaged(f"has a point {name} already")
            header = self.header()
            is_served = not _hold(self.changes_fd)
            if not is_served:
                self._begin(folder_fd, ImageState(header.image_inode, header.image_modified_ns))
            session = self.header().session
            # The map that is not written to is what an earlier point left, if it was not set to the end.
            content = self.tracker.turn()
            point = Point(
                name=name,
                number=1 + max((point.number for point in points), default=0),
                session=session,
                time_ns=time.time_ns(),
                content=zlib.compress(content),
            )
            _keep_point(folder_fd, point)
            self.tracker.clear_other()
        if not is_served:
            self.end(ImageState(header.image_inode, header.image_modified_ns))
        return point

    def remove_point(self, name: str) -> None:
        """Have no such point any more; what is told since another is what it was. Raises `TrackerDamaged`."""
        with _locked(self.path) as folder_fd:
            points = _points(folder_fd)
            names = [point.name for point in points]
            if name == START:
                raise TrackerDamaged("tracks from its start on: that is no point that can be removed")
            if name not in names:
                raise TrackerDamaged(f"has no point {name}; it has {', '.join([START, *names])}")
            place = names.index(name)
            removed = points[place]
            if place + 1 < len(points):
                after = points[place + 1]
                both = _bits(removed) | _bits(after)
                size = len(self.tracker.content())
                _keep_point(
                    folder_fd,
                    msgspec.structs.replace(
                        after,
                        content=zlib.compress(both.to_bytes(size, "little")),
                        first=removed.first or removed.number,
                    ),
                )
            else:
                self.tracker.add(zlib.decompress(removed.content))
                os.fsync(self.changes_fd)
            os.unlink(_point_file(removed.number), dir_fd=folder_fd)
            os.fsync(folder_fd)

    def points(self) -> list[Point]:
        """All that were set, in order."""
        with _locked(self.path) as folder_fd:
            return _points(folder_fd)

    def changed_since(self, name: str) -> bytes:
        """The map of what has changed since a point, a bit for each block. Raises `TrackerDamaged`."""
        with _locked(self.path) as folder_fd:
            points = _points(folder_fd)
            names = [START, *(point.name for point in points)]
            if name not in names:
                raise TrackerDamaged(f"has no point {name}; it has {', '.join(names)}")
            content = int.from_bytes(self.tracker.content(), "little")
            for point in points[names.index(name) :]:
                content |= _bits(point)
            header = self.header()
            if header.state == OPEN and not _is_held(self.changes_fd):
                content |= int.from_bytes(self._lost(header, points), "little")
        return content.to_bytes(len(self.tracker.content()), "little")


def _bits(point: Point) -> int:
    return int.from_bytes(zlib.decompress(point.content), "little")


def _point_file(number: int) -> str:
    return f"{_POINT}{number:08d}"


def _keep_point(folder_fd: int, point: Point) -> None:
    content = msgspec.msgpack.encode(point)
    head = _POINT_HEAD.pack(_POINT_MAGIC, zlib.crc32(content), len(content))
    name = _point_file(point.number)
    fd = os.open(name + _NEW, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _MODE, dir_fd=folder_fd)
    with open(fd, "wb") as file:
        file.write(head + content)
        file.flush()
        os.fsync(fd)
    os.rename(name + _NEW, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    os.fsync(folder_fd)


def _points(folder_fd: int) -> list[Point]:
    """Raises `TrackerDamaged`, `OSError`."""
    points: list[Point] = []
    for name in sorted(os.listdir(folder_fd)):
        if not name.startswith(_POINT) or name.endswith(_NEW):
            continue
        with open(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder_fd), "rb") as file:
            content = file.read()
        magic, checksum, length = _POINT_HEAD.unpack(content[: _POINT_HEAD.size].ljust(_POINT_HEAD.size))
        body = content[_POINT_HEAD.size :]
        if magic != _POINT_MAGIC or len(body) != length or zlib.crc32(body) != checksum:
            raise TrackerDamaged(f"{name} is damaged")
        points.append(msgspec.msgpack.decode(body, type=Point))
    # One that was being removed when that was cut off stands in the next one already.
    removed = {number for point in points if point.first for number in range(point.first, point.number)}
    points = [point for point in points if point.number not in removed]
    numbers = {point.number for point in points} | removed
    if len(numbers) != max(numbers, default=0):
        raise TrackerDamaged("has lost a point")
    return points


def _make(folder_fd: int, size_bytes: int) -> None:
    """Files that track nothing yet: `regions` is the last to have its name."""
    layout, tracker_id = ChangesLayout.of(size_bytes), secrets.token_bytes(16)
    header = RegionsHeader(
        state=CLEAN,
        size_bytes=size_bytes,
        session=0,
        boot_id=bytes(16),
        tracker_id=tracker_id,
        image_inode=0,
        image_modified_ns=0,
    )
    files = (
        (CHANGES, new_changes_head(tracker_id), layout.file_bytes),
        (REGIONS, header.encode(), REGIONS_FILE_BYTES),
    )
    for name, head, file_bytes in files:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(name + _NEW, flags, _MODE, dir_fd=folder_fd)
        try:
            reserve(fd, 0, file_bytes)  # so that no store to a mapping finds the disk full
            _write(fd, head, 0)
            os.fsync(fd)
        finally:
            os.close(fd)
    for name, _, _ in files:
        os.rename(name + _NEW, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    os.fsync(folder_fd)


def _hold(fd: int) -> bool:
    """Be who serves the drive, for as long as any process has this open; False if somebody else is."""
    try:
        set_lock(fd, WRITE, _ALIVE_BYTE, 1)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True


def _is_held(fd: int) -> bool:
    return get_lock(fd, _ALIVE_BYTE, 1)[0] != NONE


@contextlib.contextmanager
def _locked(path: str, *, is_made: bool = False) -> Iterator[int]:
    if is_made:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, _FOLDER_MODE)
    folder_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder_fd, fcntl.LOCK_EX)
        yield folder_fd
    finally:
        os.close(folder_fd)


def _open(name: str, folder_fd: int) -> int:
    try:
        return os.open(name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder_fd)
    except FileNotFoundError:
        raise TrackerDamaged(f"has lost its {name}, or tracks no changes") from None


def _exists(name: str, folder_fd: int) -> bool:
    try:
        os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _write(fd: int, content: bytes, offset: int) -> None:
    while content:
        count = os.pwrite(fd, content, offset)
        content, offset = content[count:], offset + count
