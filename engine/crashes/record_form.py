"""The form of a record: what was done to the files of a folder, in order, by whoever did it.

Each event is a head and, for some kinds, `size` bytes of data. All who record append to one file, an event at
a time; an event's place in it is its time.
"""

import enum
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

HEAD = struct.Struct("<IIQQQ")
"""Kind, call, inode, offset, size."""


class Kind(enum.IntEnum):
    """What happened."""

    END = 0
    """The call of this number has ended; `size` is its result, a count or a negative number."""
    WRITE = 1
    WRITE_DURABLY = 2
    ZERO = 3
    """A range reads as zeroes, by whatever means."""
    FLUSH = 4
    """Of a file, or of a folder's names."""
    RESIZE = 5
    """The file has `offset` bytes from here on."""
    NAMES = 6
    """Names have changed, all at once: data is a list of `NameEntry`."""
    MARK = 7
    """A word of whoever watches."""


_WITH_DATA = frozenset({Kind.WRITE, Kind.WRITE_DURABLY, Kind.NAMES, Kind.MARK})


class NameEntry(msgspec.Struct, frozen=True, array_like=True):
    """A name in a folder means this inode from now on; 0: nothing any more."""

    folder: int
    name: str
    inode: int
    is_folder: bool = False


class Event(NamedTuple):
    """An event as it stands; `time` is where it begins."""

    time: int
    kind: int
    call: int
    inode: int
    offset: int
    size: int
    data: memoryview


def read_events(content: memoryview) -> Iterator[Event]:
    """All events of a record, in order. What its end has cut off was never answered, and does not count."""
    place = 0
    while place + HEAD.size <= len(content):
        kind, call, inode, offset, size = HEAD.unpack_from(content, place)
        data_place = place + HEAD.size
        end = data_place + (size if kind in _WITH_DATA else 0)
        if end > len(content):
            return
        yield Event(place, kind, call, inode, offset, size, content[data_place:end])
        place = end


class RecordWriter:
    """Appends events to the record that is open as `fd`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._call = 0

    def call(self, kind: Kind, inode: int, offset: int, size: int, data: bytes | memoryview = b"") -> None:
        """Something that was begun and has ended; the moment between is a time of its own."""
        self._call = (self._call + 1) & 0xFFFFFFFF
        result = size if kind in (Kind.WRITE, Kind.WRITE_DURABLY) else 0
        os.writev(self._fd, [HEAD.pack(kind, self._call, inode, offset, size), data])
        os.write(self._fd, HEAD.pack(Kind.END, self._call, 0, 0, result))

    def resize(self, inode: int, size: int) -> None:
        """A file has another size."""
        os.write(self._fd, HEAD.pack(Kind.RESIZE, 0, inode, size, 0))

    def names(self, entries: list[NameEntry]) -> None:
        """Names have changed."""
        data = msgspec.json.encode(entries)
        os.write(self._fd, HEAD.pack(Kind.NAMES, 0, 0, 0, len(data)) + data)

    def mark(self, text: str) -> None:
        """Whoever watches says something."""
        data = text.encode()
        os.write(self._fd, HEAD.pack(Kind.MARK, 0, 0, 0, len(data)) + data)
