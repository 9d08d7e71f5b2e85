"""What a record says, as changes that a power failure may keep or lose.

The fault model. What a flush has covered is on the disk: every write that had ended when the flush began. Of
all else that was begun any part may be there, in any order, each write whole or torn at sectors of 512 bytes.
Names and sizes change in order, as on a file system with a journal: those that are on the disk are the first
so many, and among them all up to the last that a flush of its folder (a size: of its file) has covered.
"""

import bisect
import itertools
from collections.abc import Iterable
from pathlib import Path

import msgspec

from ringblk.engine.crashes.record_form import Event, Kind, NameEntry, read_events

SECTOR_BYTES = 512
NEVER = 1 << 62


class Change(msgspec.Struct):
    """Something that changes a file: `data` written at an offset, or None for that many zeroes."""

    inode: int
    offset: int
    size: int
    data: memoryview | None
    began: int
    ended: int = NEVER
    is_durable: bool = False
    flushed: int = NEVER
    """When it was on the disk for good."""


class Flush(msgspec.Struct):
    """A flush of a file or folder."""

    inode: int
    began: int
    ended: int = NEVER


class Rename(msgspec.Struct):
    """Names that have changed at once, or (without names) the size of a file."""

    time: int
    entries: list[NameEntry] = []
    inode: int = 0
    size: int = 0
    flushed: int = NEVER
    """When it, and so all before it, was on the disk for good."""

    @property
    def flushed_with(self) -> set[int]:
        """The inodes whose flush covers it."""
        return {entry.folder for entry in self.entries} or {self.inode}


class Mark(msgspec.Struct, frozen=True):
    """What whoever watched said, and when."""

    time: int
    text: str


class History:
    """What was done to the files, in order."""

    def __init__(self, content: memoryview) -> None:
        self.changes: list[Change] = []
        self.flushes: list[Flush] = []
        self.renames: list[Rename] = []
        self.marks: list[Mark] = []
        self.end = len(content)
        open_calls: dict[int, Change | Flush] = {}
        for event in read_events(content):
            self._take(event, open_calls)
        self._note_flushed()
        self._note_flushed_names()

    @staticmethod
    def read(path: Path) -> "History":
        """Of a record on the disk. Raises `OSError`."""
        return History(memoryview(path.read_bytes()))

    def _take(self, event: Event, open_calls: dict[int, Change | Flush]) -> None:
        match event.kind:
            case Kind.END:
                _end(open_calls.pop(event.call), event)
            case Kind.FLUSH:
                flush = Flush(event.inode, event.time)
                open_calls[event.call] = flush
                self.flushes.append(flush)
            case Kind.RESIZE:
                self.renames.append(Rename(event.time, inode=event.inode, size=event.offset))
            case Kind.NAMES:
                entries = msgspec.json.decode(event.data, type=list[NameEntry])
                self.renames.append(Rename(event.time, entries))
            case Kind.MARK:
                self.marks.append(Mark(event.time, str(event.data, "utf-8")))
            case _:
                data = None if event.kind == Kind.ZERO else event.data
                is_durable = event.kind == Kind.WRITE_DURABLY
                change = Change(
                    event.inode, event.offset, event.size, data, event.time, is_durable=is_durable
                )
                open_calls[event.call] = change
                self.changes.append(change)

    def _note_flushed(self) -> None:
        for inode in {change.inode for change in self.changes}:
            spans = [(flush.began, flush.ended) for flush in self.flushes if flush.inode == inode]
            changes = [change for change in self.changes if change.inode == inode]
            for change, at in zip(
                changes, first_flush_after([each.ended for each in changes], spans), strict=True
            ):
                change.flushed = min(at, change.ended if change.is_durable else NEVER)

    def _note_flushed_names(self) -> None:
        spans: dict[int, list[tuple[int, int]]] = {}
        for flush in self.flushes:
            spans.setdefault(flush.inode, []).append((flush.began, flush.ended))
        later = NEVER
        for rename in reversed(self.renames):
            own = (first_flush_after([rename.time], spans.get(inode, []))[0] for inode in rename.flushed_with)
            later = rename.flushed = min(later, *own)

    def times(self) -> list[int]:
        """The moments between which nothing changes, the end included."""
        calls: list[Change | Flush] = [*self.changes, *self.flushes]
        moments = {call.began for call in calls} | {call.ended for call in calls if call.ended != NEVER}
        moments |= {rename.time for rename in self.renames} | {mark.time for mark in self.marks}
        return sorted(moments | {self.end})


def _end(call: Change | Flush, event: Event) -> None:
    """Note the end of a call; one that failed, or fell short, may have changed anything, and never ends."""
    result = event.size if event.size < 1 << 63 else event.size - (1 << 64)
    is_write = isinstance(call, Change) and call.data is not None
    if result == (call.size if is_write and isinstance(call, Change) else 0):
        call.ended = event.time


def first_flush_after(moments: Iterable[int], flushes: Iterable[tuple[int, int]]) -> list[int]:
    """For each moment the first end of a flush that began no earlier; `flushes` are their begins and ends."""
    in_order = sorted(flushes)
    first_ends = [*itertools.accumulate((ended for _, ended in reversed(in_order)), min, initial=NEVER)][::-1]
    return [first_ends[bisect.bisect_left(in_order, (moment, 0))] for moment in moments]
