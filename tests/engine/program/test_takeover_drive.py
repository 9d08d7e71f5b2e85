"""--takeover at a socket: the guest there keeps its drive, or the old engine is not told to end."""

import os
from pathlib import Path

import pytest

from ringblk.engine.drives.record import record_of_process
from ringblk.shm.segments.shared_folder import FOLDER
from tests.rigs.engine_rig import DEADLINE_S, Engine, RawFrontend, run_program

DISK_BYTES = 1 << 20
MEMORY = ["--backend=memory", f"--backend-arg=size_bytes={DISK_BYTES}"]
RAM_DISK = ["--backend=ram_disk:RamDisk", f"--backend-arg=size_bytes={DISK_BYTES}"]


def make_image(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(bytes(DISK_BYTES))
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make_image(tmp_path, "disk.img")


def refused(old: Engine, *options: str) -> str:
    """Try to take over at the engine's socket, which is to be refused and to leave it alone; what is said."""
    done = run_program(f"--socket-path={old.socket_path}", "--takeover", "--workers=1", *options)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    old.say_hello()
    return done.stderr


def test_there_is_no_warning_where_nothing_was_set(image: Path) -> None:
    """An engine with nothing to say to its successor leaves no record."""
    with Engine(f"--blk-file={image}", "--workers=1") as old:
        assert "WARNING" not in takes_over(old, f"--blk-file={image}")


def takes_over(old: Engine, *options: str) -> str:
    with Engine("--takeover", "--workers=1", *options, after=old) as new:
        assert old.process.wait(DEADLINE_S) == 0
        return new.log()


def test_another_image_is_refused(image: Path, tmp_path: Path) -> None:
    other = make_image(tmp_path, "other.img")
    with Engine(f"--blk-file={image}", "--workers=1") as old:
        told = refused(old, f"--blk-file={other}")
        assert f"the engine at {old.socket_path} (process {old.process.pid}) has another drive" in told
        assert "--replace-image" in told


def test_another_image_is_taken_where_that_is_said(image: Path, tmp_path: Path) -> None:
    other = make_image(tmp_path, "other.img")
    with Engine(f"--blk-file={image}", "--workers=1") as old:
        assert str(other) in takes_over(old, f"--blk-file={other}", "--replace-image")


def test_an_image_that_was_put_in_the_place_of_another_is_refused(image: Path, tmp_path: Path) -> None:
    with Engine(f"--blk-file={image}", "--workers=1") as old:
        os.replace(make_image(tmp_path, "new.img"), image)
        assert "has another drive" in refused(old, f"--blk-file={image}")


def test_an_image_that_was_renamed_is_the_same(image: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "renamed.img"
    with Engine(f"--blk-file={image}", "--workers=1") as old:
        os.rename(image, renamed)
        assert str(renamed) in takes_over(old, f"--blk-file={renamed}")


def test_an_image_of_another_size_is_the_same(image: Path) -> None:
    with Engine(f"--blk-file={image}", "--workers=1") as old:
        os.truncate(image, 2 * DISK_BYTES)
        assert "2.00 MiB" in takes_over(old, f"--blk-file={image}")


def test_a_smaller_one_is_in_the_log(image: Path) -> None:
    with Engine(f"--blk-file={image}", "--workers=1") as old, RawFrontend(old) as guest:
        guest.set_up()
        os.truncate(image, DISK_BYTES // 2)
        assert f"the drive had {DISK_BYTES} bytes for its guest" in takes_over(old, f"--blk-file={image}")


def test_a_guest_that_writes_is_not_left_with_reading(image: Path) -> None:
    with Engine(f"--blk-file={image}", "--workers=1") as old:
        assert "lets its guest write, and this one would not" in refused(
            old, f"--blk-file={image}", "--read-only"
        )


def test_a_guest_that_only_reads_may_be_let_write(image: Path) -> None:
    with Engine(f"--blk-file={image}", "--workers=1", "--read-only") as old:
        assert "sandbox" in takes_over(old, f"--blk-file={image}")


def test_memory_is_never_the_same(image: Path) -> None:
    with Engine(*MEMORY, "--workers=1") as old:
        assert "has another drive" in refused(old, *MEMORY)
        assert "has another drive" in refused(old, f"--blk-file={image}")
        assert "sandbox" in takes_over(old, *MEMORY, "--replace-image")


def test_a_backend_is_the_same_with_the_same_arguments() -> None:
    with Engine(*RAM_DISK, "--workers=1") as old:
        assert "has another drive" in refused(
            old, "--backend=ram_disk:RamDisk", "--backend-arg=size_bytes=512"
        )
        assert "sandbox" in takes_over(old, *RAM_DISK)


def test_what_has_no_contents_is_the_same() -> None:
    null = ["--backend=null", f"--backend-arg=size_bytes={DISK_BYTES}"]
    with Engine(*null, "--workers=1") as old:
        assert "sandbox" in takes_over(old, *null)


def test_an_engine_without_a_record_is_known_by_what_it_has_open(image: Path, tmp_path: Path) -> None:
    other = make_image(tmp_path, "other.img")
    with Engine(f"--blk-file={image}", "--workers=1") as old:
        found = record_of_process(old.process.pid)
        assert found is not None
        (Path(FOLDER) / found.name).unlink()  # as with one of an earlier version
        assert "cannot be seen to have the same drive" in refused(old, f"--blk-file={other}")
        assert "cannot be seen to have the same drive" in refused(old, *MEMORY)
        log = takes_over(old, f"--blk-file={image}")
        assert f"(process {old.process.pid}) has left no record" in log


@pytest.mark.parametrize("options", [["--replace-image"], ["--replace-image", "--takeover"]])
def test_replacing_an_image_needs_an_engine_to_take_over_from(image: Path, options: list[str]) -> None:
    done = run_program("--fd=0", f"--blk-file={image}", *options)
    assert (done.returncode, "--replace-image needs --takeover" in done.stderr) == (2, True)
