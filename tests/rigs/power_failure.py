"""Power failures: all that was written to files, recorded, and what of it a power failure may leave.

The fault model. What a flush has covered is on the disk: every write that had ended when the flush began. Of
all else that was begun, any part may be there, in any order; a write may be torn, at sectors of 512 bytes.
Sizes and names of files stay. A file that is only mapped (a layer's live map) may hold anything.

`recording_build` is the package with a recorder in it (workers/files/file_calls.pxd). Time is a place in the
recorder's file: all processes append to it.
"""

import bisect
import itertools
import os
import random
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from tests.rigs.separate_build import SeparateBuild

SECTOR_BYTES = 512
NEVER = 1 << 62
_RECORD = struct.Struct("<IIQQQ")
_END, _WRITE, _WRITE_DURABLY, _ZERO, _FLUSH = range(5)
_RECORDED_MODULES = ("ringblk.workers.backends.file", "ringblk.workers.layers.journal")


def recording_build() -> Path:
    """The folder to put into PYTHONPATH: all that write to files note it in $RINGBLK_RECORD."""
    return SeparateBuild("recording-build", ("-O1", "-g0", "-DRINGBLK_RECORD"), _RECORDED_MODULES).make()


class Change(msgspec.Struct):
    """Something that changes a file: `data` written at an offset, or None for that many zeroes."""

    inode: int
    offset: int
    size: int
    data: bytes | None
    began: int
    ended: int = NEVER
    is_durable: bool = False
    flushed: int = NEVER
    """When it was on the disk for good."""


class Flush(msgspec.Struct):
    """A flush of a file."""

    inode: int
    began: int
    ended: int = NEVER


class Recording:
    """What the recorder's file says."""

    def __init__(self, path: Path) -> None:
        self.changes: list[Change] = []
        self.flushes: list[Flush] = []
        content = path.read_bytes()
        self.end = len(content)
        open_calls: dict[int, Change | Flush] = {}
        for time, (kind, pid, inode, offset, size), data in _records(content):
            match kind:
                case 0:  # the end of what its process began last
                    call = open_calls.pop(pid)
                    result = size if size < 1 << 63 else size - (1 << 64)
                    is_done = (
                        result == call.size
                        if isinstance(call, Change) and call.data is not None
                        else result == 0
                    )
                    if is_done:
                        call.ended = time
                case 4:
                    flush = Flush(inode, time)
                    open_calls[pid] = flush
                    self.flushes.append(flush)
                case _:
                    content_of = None if kind == _ZERO else data
                    change = Change(inode, offset, size, content_of, time, is_durable=kind == _WRITE_DURABLY)
                    open_calls[pid] = change
                    self.changes.append(change)
        self._note_flushed()

    def _note_flushed(self) -> None:
        for inode in {change.inode for change in self.changes}:
            spans = [(flush.began, flush.ended) for flush in self.flushes if flush.inode == inode]
            changes = [change for change in self.changes if change.inode == inode]
            for change, at in zip(
                changes, first_flush_after([each.ended for each in changes], spans), strict=True
            ):
                change.flushed = min(at, change.ended if change.is_durable else NEVER)

    def rename(self, inodes: Mapping[int, int]) -> None:
        """The files that were written to are others, copies, from now on."""
        for change in self.changes:
            change.inode = inodes[change.inode]
        for flush in self.flushes:
            flush.inode = inodes[flush.inode]

    def times(self) -> list[int]:
        """The moments between which nothing changes."""
        calls: list[Change | Flush] = [*self.changes, *self.flushes]
        moments = {call.began for call in calls} | {call.ended for call in calls if call.ended != NEVER}
        return sorted(moments | {self.end})

    def leave(self, before: Path, after: Path, cut: int, chance: random.Random) -> None:
        """Make a folder as a power failure at `cut` may leave it, of what it was before.

        Both are folders of plain files; `before` has those that the recording names.
        """
        after.mkdir()
        for path in before.iterdir():
            target = after / path.name
            _copy_sparse(path, target)
            begun = [
                change for change in self.changes if change.inode == path.stat().st_ino and change.began < cut
            ]
            flushed = [change for change in begun if change.flushed < cut]
            fd = os.open(target, os.O_RDWR)
            try:
                for change in flushed:
                    _land(fd, change, range(_sectors(change)))
                rest = [change for change in begun if change.flushed >= cut and chance.random() < 0.6]
                chance.shuffle(rest)
                for change in rest:
                    _land(fd, change, _not_replaced(change, flushed, _torn(_sectors(change), chance)))
            finally:
                os.close(fd)


def first_flush_after(moments: Iterable[int], flushes: Iterable[tuple[int, int]]) -> list[int]:
    """For each moment the first end of a flush that began no earlier; `flushes` are their begins and ends."""
    in_order = sorted(flushes)
    first_ends = [*itertools.accumulate((ended for _, ended in reversed(in_order)), min, initial=NEVER)][::-1]
    return [first_ends[bisect.bisect_left(in_order, (moment, 0))] for moment in moments]


def _records(content: bytes) -> Iterator[tuple[int, tuple[int, int, int, int, int], bytes]]:
    place = 0
    while place < len(content):
        record = _RECORD.unpack_from(content, place)
        began, kind = place, record[0]
        place += _RECORD.size
        size = record[4] if kind in (_WRITE, _WRITE_DURABLY) else 0
        yield began, record, content[place : place + size]
        place += size


def _sectors(change: Change) -> int:
    assert (change.offset | change.size) % SECTOR_BYTES == 0, change
    return change.size // SECTOR_BYTES


def _torn(count: int, chance: random.Random) -> Sequence[int]:
    """Which sectors of a change land."""
    way = chance.random()
    if way < 0.5 or count == 1:
        return range(count)
    if way < 0.75 or count > 4096:
        return range(chance.randrange(count))
    return [index for index in range(count) if chance.random() < 0.5]


def _not_replaced(change: Change, flushed: Sequence[Change], sectors: Sequence[int]) -> Sequence[int]:
    """Without the sectors that a later change has replaced for good: nothing older comes back over it."""
    end = change.offset + change.size
    later = [
        each
        for each in flushed
        if each.began > change.began and each.offset < end and change.offset < each.offset + each.size
    ]
    if not later:
        return sectors
    places = ((index, change.offset + index * SECTOR_BYTES) for index in sectors)
    return [
        index
        for index, place in places
        if not any(each.offset <= place < each.offset + each.size for each in later)
    ]


def _land(fd: int, change: Change, sectors: Sequence[int]) -> None:
    if isinstance(sectors, range):
        size = len(sectors) * SECTOR_BYTES
        if change.data is not None:
            os.pwrite(fd, change.data[:size], change.offset)
        else:
            _write_zeroes(fd, change.offset, size)
        return
    for index in sectors:
        start = index * SECTOR_BYTES
        piece = bytes(SECTOR_BYTES) if change.data is None else change.data[start : start + SECTOR_BYTES]
        os.pwrite(fd, piece, change.offset + start)


def _write_zeroes(fd: int, offset: int, size: int) -> None:
    """Where anything else is; the rest of a sparse file stays so."""
    end = offset + size
    while offset < end:
        try:
            offset = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError:  # no data from here on
            return
        until = min(end, os.lseek(fd, offset, os.SEEK_HOLE))
        if offset < until:
            os.pwrite(fd, bytes(until - offset), offset)
        offset = until


def _copy_sparse(source: Path, target: Path) -> None:
    with source.open("rb") as file, target.open("wb") as copy:
        size = os.fstat(file.fileno()).st_size
        os.ftruncate(copy.fileno(), size)
        offset = 0
        while offset < size:
            try:
                offset = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            except OSError:
                return
            until = os.lseek(file.fileno(), offset, os.SEEK_HOLE)
            os.pwrite(copy.fileno(), os.pread(file.fileno(), until - offset, offset), offset)
            offset = until


def copy_folder(source: Path, target: Path) -> None:
    """A copy, holes included."""
    target.mkdir()
    for path in source.iterdir():
        _copy_sparse(path, target / path.name)


def remove_folder(path: Path) -> None:
    """Remove it, where it is there."""
    shutil.rmtree(path, ignore_errors=True)
