"""States that a power failure may leave: each is legal, and all that are legal come."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from ringblk.crashes import Recording, State
from ringblk.engine.crashes.folder_copy import FolderCopy, remove_folder
from ringblk.engine.crashes.record_form import Kind, NameEntry, RecordWriter

SECTORS = 6
SECTOR_BYTES = 512
Seen = TypeVar("Seen")
Step = tuple[str, int, int]


class Written:
    """A folder with one file, and a record of what is done to it, which is written without doing it."""

    def __init__(self, home: Path, content: bytes) -> None:
        self.home = home
        self.folder = home / "folder"
        self.folder.mkdir()
        (self.folder / "file").write_bytes(content)
        self.inode = (self.folder / "file").stat().st_ino
        self.root = self.folder.stat().st_ino
        FolderCopy.make(self.folder, home / "record" / "before")
        self._fd = os.open(home / "record" / "events", os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self.writer = RecordWriter(self._fd)

    def write(self, offset: int, data: bytes, kind: Kind = Kind.WRITE) -> None:
        self.writer.call(kind, self.inode, offset, len(data), data)

    def flush(self, inode: int = 0) -> None:
        self.writer.call(Kind.FLUSH, inode or self.inode, 0, 0)

    @property
    def now(self) -> int:
        return os.fstat(self._fd).st_size

    def found(
        self, count: int, look: Callable[[Path], Seen], until: int | None = None
    ) -> Iterator[tuple[State, Seen]]:
        """What `look` sees in so many states; with `until`, at that moment."""
        recording = Recording.read(self.home / "record")
        for state in recording.states(count):
            if until is not None:
                state.cut = until
            target = self.home / "state"
            remove_folder(target)
            state.make(target)
            yield state, look(target)


def content_of_file(state: Path) -> bytes:
    return (state / "file").read_bytes()


@contextmanager
def written(content: bytes = b"") -> Iterator[Written]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="ringblk-test-") as name:
        yield Written(Path(name), content)


def sectors_of(content: bytes) -> list[int]:
    """The stamp of each sector, which is not torn."""
    pieces = [content[place : place + SECTOR_BYTES] for place in range(0, len(content), SECTOR_BYTES)]
    assert all(piece == piece[:1] * len(piece) for piece in pieces)
    return [piece[0] for piece in pieces]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "write durably", "zero", "flush"]),
        st.integers(0, SECTORS - 1),
        st.integers(1, SECTORS),
    ),
    max_size=12,
)


def possible_sectors(steps: list[tuple[int, int, Step]], cut: int) -> list[set[int]]:
    """What each sector may hold: told sector by sector, each step's begin, end and what it is."""
    possible = [{0} for _ in range(SECTORS)]
    for number, (began, ended, (kind, first, count)) in enumerate(steps, 1):
        if began >= cut:
            break
        is_kept = kind == "write durably" and ended <= cut
        is_kept |= any(each[2][0] == "flush" and each[1] <= cut for each in steps[number:])
        stamp = 0 if kind == "zero" else number
        for sector in range(first, min(first + count, SECTORS)) if kind != "flush" else ():
            possible[sector] = {stamp} if is_kept else {*possible[sector], stamp}
    return possible


@given(STEPS)
@settings(max_examples=60, deadline=None)
def test_each_sector_is_as_it_may_be(steps: list[Step]) -> None:
    with written(bytes(SECTORS * SECTOR_BYTES)) as folder:
        done = []
        for number, (kind, first, count) in enumerate(steps, 1):
            began = folder.now
            size = (min(first + count, SECTORS) - first) * SECTOR_BYTES
            match kind:
                case "flush":
                    folder.flush()
                case "zero":
                    folder.writer.call(Kind.ZERO, folder.inode, first * SECTOR_BYTES, size)
                case _:
                    is_durable = kind == "write durably"
                    kind_of = Kind.WRITE_DURABLY if is_durable else Kind.WRITE
                    folder.write(first * SECTOR_BYTES, bytes([number]) * size, kind_of)
            done.append((began, folder.now, (kind, first, count)))
        for state, content in folder.found(12, content_of_file):
            possible = possible_sectors(done, state.cut)
            assert all(stamp in may for stamp, may in zip(sectors_of(content), possible, strict=True)), (
                state.cut,
                done,
            )


def test_all_that_may_be_comes() -> None:
    """Three writes of two sectors, one of which is flushed: each part of the others, in each order."""
    with written(bytes(2 * SECTOR_BYTES)) as folder:
        folder.write(0, b"\1" * 1024)
        folder.flush()
        folder.write(0, b"\2" * 1024)
        folder.write(0, b"\3" * 1024)
        looked = folder.found(
            1500, lambda target: tuple(sectors_of((target / "file").read_bytes())), folder.now
        )
        assert {found for _, found in looked} == {(a, b) for a in (1, 2, 3) for b in (1, 2, 3)}


def test_a_write_that_is_no_multiple_of_a_sector() -> None:
    with written(b"o" * 2000) as folder:
        folder.write(500, b"n" * 700)
        pieces = [(500, 512), (512, 1024), (1024, 1200)]
        for _, content in folder.found(100, content_of_file):
            assert (content[:500], content[1200:]) == (b"o" * 500, b"o" * 800)
            for start, end in pieces:
                assert content[start:end] in (b"o" * (end - start), b"n" * (end - start))


def test_names_and_sizes_come_in_order() -> None:
    """A new file replaces another: its name may come without its content, where that was not flushed."""
    with written(b"old" * 100) as folder:
        new = folder.inode + 1000000
        folder.writer.names([NameEntry(folder.root, "file.new", new)])
        folder.writer.resize(new, 300)
        folder.writer.call(Kind.WRITE, new, 0, 300, b"new" * 100)
        folder.writer.names([NameEntry(folder.root, "file.new", 0), NameEntry(folder.root, "file", new)])
        unflushed_at = folder.now

        def look(target: Path) -> tuple[tuple[str, ...], bytes]:
            names = tuple(sorted(path.name for path in target.iterdir()))
            return names, (target / "file").read_bytes()

        found = {each for _, each in folder.found(300, look, unflushed_at)}
        assert {content for _, content in found} == {b"old" * 100, b"new" * 100, bytes(300)}
        assert {names for names, _ in found} == {("file",), ("file", "file.new")}
        folder.flush(new)
        found = {each for _, each in folder.found(300, look, folder.now)}
        assert {content for _, content in found} == {b"old" * 100, b"new" * 100}
        folder.flush(folder.root)
        folder.writer.mark("kept")
        for state, each in folder.found(20, look, folder.now):
            assert each == (("file",), b"new" * 100)
            assert [mark.text for mark in state.marks] == ["kept"]


def test_a_file_that_is_cut_off_loses_what_was_beyond() -> None:
    with written(b"a" * 2048) as folder:
        folder.write(1024, b"b" * 1024)
        folder.writer.resize(folder.inode, 1024)
        folder.writer.resize(folder.inode, 2048)
        folder.flush()
        (_, content), *_ = folder.found(1, content_of_file, folder.now)
        assert content == b"a" * 1024 + bytes(1024)


def test_a_state_is_the_same_each_time() -> None:
    with written(bytes(8192)) as folder:
        for number in range(1, 30):
            folder.write(number % 15 * 512, bytes([number]) * 1024)
        recording = Recording.read(folder.home / "record")
        for number, state in enumerate(recording.states(10, seed=3)):
            state.make(folder.home / "one")
            recording.state(3, number).make(folder.home / "two")
            one, two = ((folder.home / name / "file").read_bytes() for name in ("one", "two"))
            assert one == two
            remove_folder(folder.home / "one")
            remove_folder(folder.home / "two")
