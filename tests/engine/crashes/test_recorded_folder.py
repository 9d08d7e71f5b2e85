"""A folder that is recorded: programs find what they would find anyway, and all that changes it is seen."""

import contextlib
import fcntl
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ringblk import Frontend, engine_command
from ringblk.crashes import CannotRecord, RecordedFolder, Recording
from ringblk.engine.crashes.history import NEVER
from tests.rigs.recorded_folder import Record

MIB = 1 << 20


@pytest.fixture
def folder(shm_path: Path) -> Path:
    path = shm_path / "folder"
    path.mkdir()
    return path


def replayed(recording: Recording, target: Path) -> Path:
    """All that was recorded, done."""
    for change in recording.history.changes:
        change.flushed = 0
    for rename in recording.history.renames:
        rename.flushed = 0
    state = next(recording.states(1))
    state.cut = NEVER
    state.make(target)
    return target


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def use_files(folder: Path) -> None:
    """All that a program may do with files."""
    (folder / "sub").mkdir()
    (folder / "new").write_bytes(b"n" * 3000)
    os.rename(folder / "new", folder / "sub" / "moved")
    os.link(folder / "sub" / "moved", folder / "linked")
    (folder / "gone").write_bytes(b"g")
    (folder / "gone").unlink()
    (folder / "empty").mkdir()
    (folder / "empty").rmdir()
    with (folder / "old").open("r+b") as file:
        fd = file.fileno()
        os.truncate(fd, 3 * 4096)
        os.pwrite(fd, b"p" * 700, 100)
        os.pwritev(fd, [b"v" * 10, b"w" * 20], 9000)
        os.posix_fallocate(fd, 0, 5 * 4096)
        with mmap.mmap(fd, 5 * 4096) as mapping:
            mapping[4000:4200] = b"m" * 200
            mapping.flush()
        os.copy_file_range(fd, fd, 50, 0, 12000)
        fcntl.lockf(fd, fcntl.LOCK_EX)
        os.fsync(fd)
    with (folder / "linked").open("ab") as file:
        file.write(b"appended")


def test_programs_find_what_they_expect(folder: Path, tmp_path: Path, recorded_folder: Record) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    for each in (folder, plain):
        (each / "old").write_bytes(b"o" * 5000)
    use_files(plain)
    with recorded_folder(folder) as recorded:
        use_files(folder)
        assert contents(folder) == contents(plain)
        assert (folder / "linked").stat().st_nlink == 2
        with pytest.raises(FileNotFoundError):
            (folder / "gone").stat()
        with pytest.raises(FileExistsError):
            (folder / "sub").mkdir()
    assert contents(folder) == contents(plain)
    assert contents(replayed(Recording.read(recorded.record), tmp_path / "state")) == contents(plain)


@pytest.mark.parametrize("io_engine", ["io_uring", "psync", "sync"])
def test_all_that_an_engine_does_is_seen(
    folder: Path, tmp_path: Path, recorded_folder: Record, io_engine: str
) -> None:
    image = folder / "disk.img"
    image.write_bytes(os.urandom(MIB))
    with recorded_folder(folder) as recorded:
        with Frontend(engine_command(f"--blk-file={image}", f"--io-engine={io_engine}")) as disk:
            for block in range(64):
                disk.write(block * 8192, bytes([block]) * 4096)
            disk.discard(MIB // 2, 65536)
            disk.flush()
            flushed_at = recorded.now
            disk.write(MIB - 512, b"l" * 512)
        assert [path.name for path in folder.iterdir()] == ["disk.img"]
    recording = Recording.read(recorded.record)
    assert image.read_bytes() == (replayed(recording, tmp_path / "state") / "disk.img").read_bytes()
    last = [change for change in recording.history.changes if bytes(change.data or b"") == b"l" * 512]
    assert last[0].began >= flushed_at
    again = Recording.read(recorded.record)
    assert all(change.flushed <= flushed_at for change in again.history.changes if change.began < flushed_at)


def test_a_durable_write_covers_itself_alone(folder: Path, recorded_folder: Record) -> None:
    with recorded_folder(folder) as recorded:
        fd = os.open(folder / "file", os.O_RDWR | os.O_CREAT)
        os.pwrite(fd, b"a" * 512, 0)
        os.pwritev(fd, [b"b" * 512], 512, os.RWF_DSYNC)
        before_flush = recorded.now
        os.pwrite(fd, b"c" * 512, 1024)
        os.fsync(fd)
        os.close(fd)
    first, durable, last = Recording.read(recorded.record).history.changes
    assert durable.is_durable
    assert durable.flushed <= before_flush
    assert first.flushed == last.flushed > before_flush


def test_what_is_in_use_still_is_an_error(folder: Path, recorded_folder: Record) -> None:
    with pytest.raises(CannotRecord, match="has files of it open still"), recorded_folder(folder):
        fd = os.open(folder / "file", os.O_RDWR | os.O_CREAT)
    with contextlib.suppress(OSError):
        os.close(fd)
    assert not os.path.ismount(folder)


def test_a_record_in_its_own_folder_is_refused(folder: Path) -> None:
    with pytest.raises(CannotRecord, match="is in the folder that is to be recorded"):
        RecordedFolder(folder, folder / "record").__enter__()
    assert not list(folder.iterdir())


def test_where_nothing_can_be_mounted_that_is_said(folder: Path, tmp_path: Path) -> None:
    program = f"""
import os
from ringblk.crashes import RecordedFolder
os.setuid(65534)
try:
    with RecordedFolder({str(folder)!r}, {str(folder.parent / "record")!r}):
        pass
except Exception as error:
    print(type(error).__name__, error)
"""
    if os.getuid() != 0:
        pytest.skip("needs root, to be another user")
    os.chmod(folder.parent, 0o777)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("CannotRecord")
    assert not os.path.ismount(folder)
