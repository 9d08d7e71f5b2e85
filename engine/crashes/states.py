"""The states that a power failure may leave of a recorded folder; `history` has the fault model."""

import bisect
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from ringblk.engine.crashes.folder_copy import FolderCopy, copy_sparse
from ringblk.engine.crashes.history import SECTOR_BYTES, Change, History, Mark
from ringblk.engine.crashes.record_form import NameEntry

_LANDS = 0.6
"""How likely a change is to be there that was not flushed."""
_TEARS_ANYWHERE_SECTORS = 4096
"""A change of more sectors than this is torn in one place only."""


class State:
    """What a power failure may leave: made in a folder by `make`, the same each time."""

    def __init__(self, recording: "Recording", cut: int, seed: str) -> None:
        self.cut = cut
        """The time at which power fails: what began before it may be there."""
        self._recording = recording
        self._seed = seed

    @property
    def marks(self) -> list[Mark]:
        """What whoever watched had said by then."""
        return [mark for mark in self._recording.history.marks if mark.time < self.cut]

    def make(self, folder: Path) -> None:
        """Make the state in a folder, which is made. Raises `OSError`."""
        chance = random.Random(self._seed)
        folder.mkdir()
        history, before = self._recording.history, self._recording.before
        count = _prefix(history, self.cut, chance)
        names = {(entry.folder, entry.name): entry for entry in before.entries}
        for rename in history.renames[:count]:
            names.update({(entry.folder, entry.name): entry for entry in rename.entries})
        made: dict[int, Path] = {}
        for parent, name, inode in _tree(names, before.root, folder):
            path = parent / name
            if inode in made:
                os.link(made[inode], path)
                continue
            made[inode] = path
            original = before.place / str(inode)
            if original.exists():
                copy_sparse(original, path)
            else:
                path.touch()
            self._fill(path, inode, count, chance)

    def _fill(self, path: Path, inode: int, rename_count: int, chance: random.Random) -> None:
        """Do to a file what has come to the disk: between two sizes that it had, in any order."""
        history = self._recording.history
        changes = self._recording.changes_of(inode)
        changes = changes[: bisect.bisect_left(changes, self.cut, key=_began)]
        sizes = [each for each in history.renames[:rename_count] if each.inode == inode]
        begin = 0
        fd = os.open(path, os.O_RDWR)
        try:
            for size in sizes:
                end = bisect.bisect_left(changes, size.time, key=_began)
                _land_some(fd, changes[begin:end], self.cut, chance)
                os.ftruncate(fd, size.size)
                begin = end
            _land_some(fd, changes[begin:], self.cut, chance)
        finally:
            os.close(fd)


class Recording:
    """What was recorded of a folder, from which states are made."""

    def __init__(self, history: History, before: FolderCopy) -> None:
        self.history = history
        self.before = before
        self._by_inode: dict[int, list[Change]] = {}
        for change in history.changes:
            self._by_inode.setdefault(change.inode, []).append(change)

    @staticmethod
    def read(record: Path) -> "Recording":
        """Of the folder that `RecordedFolder` has left. Raises `OSError`, `msgspec.DecodeError`."""
        return Recording(History.read(record / "events"), FolderCopy.read(record / "before"))

    def changes_of(self, inode: int) -> list[Change]:
        """The changes of one file, in the order in which they began."""
        return self._by_inode.get(inode, [])

    def states(self, count: int, seed: int = 1, from_part: float = 0.0) -> Iterator[State]:
        """So many states, each at a moment chosen anew; `from_part` of the moments are over by then."""
        times = self.history.times()
        times = times[int(from_part * len(times)) :]
        for index in range(count):
            yield self.state(seed, index, times)

    def state(self, seed: int, index: int, times: Sequence[int] = ()) -> State:
        """State number `index` of those that a seed gives."""
        name = f"{seed}/{index}"
        cut = random.Random(f"{name}/cut").choice(times or self.history.times()) + 1
        return State(self, cut, name)


def _began(change: Change) -> int:
    return change.began


def _prefix(history: History, cut: int, chance: random.Random) -> int:
    """How many changes of names and sizes are there."""
    begun = bisect.bisect_left(history.renames, cut, key=lambda rename: rename.time)
    flushed = bisect.bisect_left(history.renames[:begun], cut, key=lambda rename: rename.flushed)
    return chance.choice([flushed, begun, chance.randint(flushed, begun)])


def _tree(
    names: dict[tuple[int, str], NameEntry], root: int, folder: Path
) -> Iterator[tuple[Path, str, int]]:
    """Make the folders; each file's folder, name and inode."""
    below: dict[int, list[NameEntry]] = {}
    for entry in names.values():
        if entry.inode:
            below.setdefault(entry.folder, []).append(entry)
    rest = [(root, folder)]
    while rest:
        inode, path = rest.pop()
        for entry in below.get(inode, []):
            if entry.is_folder:
                (path / entry.name).mkdir()
                rest.append((entry.inode, path / entry.name))
            else:
                yield path, entry.name, entry.inode


def _land_some(fd: int, begun: Sequence[Change], cut: int, chance: random.Random) -> None:
    """What was flushed, and of the rest some, in any order."""
    flushed = [change for change in begun if change.flushed < cut]
    for change in flushed:
        _land(fd, change, _sectors(change))
    rest = [change for change in begun if change.flushed >= cut and chance.random() < _LANDS]
    chance.shuffle(rest)
    for change in rest:
        _land(fd, change, _not_replaced(change, flushed, _torn(_sectors(change), chance)))


def _sectors(change: Change) -> range:
    """The sectors of the file that a change touches; the first and the last may be touched in part."""
    first = change.offset // SECTOR_BYTES
    return range(first, max(first, -(-(change.offset + change.size) // SECTOR_BYTES)))


def _torn(sectors: range, chance: random.Random) -> Sequence[int]:
    """Which sectors of a change land."""
    way = chance.random()
    if way < 0.5 or len(sectors) <= 1:
        return sectors
    if way < 0.75 or len(sectors) > _TEARS_ANYWHERE_SECTORS:
        return sectors[: chance.randrange(len(sectors))]
    return [sector for sector in sectors if chance.random() < 0.5]


def _not_replaced(change: Change, flushed: Sequence[Change], sectors: Sequence[int]) -> Sequence[int]:
    """Without the sectors that a later change has replaced for good: nothing older comes back over it."""
    end = change.offset + change.size
    after = bisect.bisect_right(flushed, change.began, key=_began)
    later = [
        each for each in flushed[after:] if each.offset < end and change.offset < each.offset + each.size
    ]
    if not later:
        return sectors
    replaced = [_sectors(each) for each in later]
    return [sector for sector in sectors if not any(sector in each for each in replaced)]


def _land(fd: int, change: Change, sectors: Sequence[int]) -> None:
    if isinstance(sectors, range):
        if len(sectors):
            _land_bytes(fd, change, sectors.start * SECTOR_BYTES, sectors.stop * SECTOR_BYTES)
        return
    for sector in sectors:
        _land_bytes(fd, change, sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES)


def _land_bytes(fd: int, change: Change, start: int, end: int) -> None:
    """What of a change is between two places of the file."""
    start, end = max(start, change.offset), min(end, change.offset + change.size)
    if change.data is None:
        _write_zeroes(fd, start, end)
    else:
        os.pwrite(fd, change.data[start - change.offset : end - change.offset], start)


def _write_zeroes(fd: int, offset: int, end: int) -> None:
    """Where anything else is; the rest of a sparse file stays so."""
    while offset < end:
        try:
            offset = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError:  # no data from here on
            return
        until = min(end, os.lseek(fd, offset, os.SEEK_HOLE))
        if offset < until:
            os.pwrite(fd, bytes(until - offset), offset)
        offset = until
