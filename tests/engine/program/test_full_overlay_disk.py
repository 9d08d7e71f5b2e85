"""An overlay's disk is full: the guest hears of it, and a reset, which gives space back, is not refused."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringblk import Frontend, RequestFailed
from ringblk.workers.layers.spare import SPARE
from tests.rigs.engine_rig import DEADLINE_S, eventually
from tests.rigs.many_drives import ManyDrives
from tests.rigs.small_disk import small_disk

SIZE_BYTES = 4 << 20
DISK = "1m"
BASE = bytes(range(1, 129)) * (SIZE_BYTES // 128)
BLOCK = b"w" * 4096


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk that has less space than the drive."""
    with small_disk(tmp_path / "disk", DISK) as folder:
        yield folder


@pytest.fixture
def drives(tmp_path: Path, disk: Path) -> Iterator[ManyDrives]:
    base = tmp_path / "base.img"
    base.write_bytes(BASE)
    with ManyDrives({"vm1": {"base": str(base), "overlay": str(disk / "vm1")}}) as engine:
        yield engine


def fill(frontend: Frontend) -> None:
    """Write until there is no more space."""
    for offset in range(0, SIZE_BYTES, 4096):
        try:
            frontend.write(offset, BLOCK)
        except RequestFailed:
            return
    raise AssertionError("the disk has space for all of the drive")


def reset(drives: ManyDrives, name: str | None) -> None:
    status, answer = drives.control.ask("POST", "/drives/vm1/reset", {"snapshot": name, "force": True})
    assert status == 200, answer


def test_a_reset_on_a_full_disk_gives_the_space_back(drives: ManyDrives, disk: Path) -> None:
    with drives.frontend("vm1") as frontend:
        frontend.write(0, b"a" * 4096)
        status, _ = drives.control.ask("POST", "/drives/vm1/snapshots", {"name": "a"})
        assert status == 201
        for name in (None, "a", None):
            fill(frontend)
            status, answer = drives.control.ask("POST", "/drives/vm1/snapshots", {"name": "no"})
            assert (status, "No space left on device" in answer["error"]) == (400, True), answer
            reset(drives, name)
            first = b"a" * 4096 if name else BASE[:4096]
            assert frontend.read(0, SIZE_BYTES) == first + BASE[4096:]
            assert (disk / "vm1" / SPARE).stat().st_blocks  # the next one finds it again


def test_a_guest_that_goes_on_writing_does_not_take_the_space_of_a_reset(drives: ManyDrives) -> None:
    is_over = threading.Event()
    written = []

    def write(frontend: Frontend) -> None:
        while not is_over.is_set():
            for offset in range(0, SIZE_BYTES, 4096):
                try:
                    frontend.write(offset, BLOCK)
                    written.append(True)
                except RequestFailed:
                    written.append(False)

    with drives.frontend("vm1") as frontend:
        writer = threading.Thread(target=write, args=(frontend,))
        writer.start()
        try:
            for _ in range(3):
                seen = len(written)
                eventually(lambda seen=seen: False in written[seen:], "a full disk")  # type: ignore[misc]
                reset(drives, None)
        finally:
            is_over.set()
            writer.join(DEADLINE_S)
        reset(drives, None)
        assert frontend.read(0, SIZE_BYTES) == BASE


def test_without_that_space_a_reset_is_refused_and_the_drive_goes_on(drives: ManyDrives, disk: Path) -> None:
    with drives.frontend("vm1") as frontend:
        (disk / "vm1" / SPARE).unlink()
        fill(frontend)
        status, answer = drives.control.ask("POST", "/drives/vm1/reset", {"snapshot": None, "force": True})
        assert (status, "No space left on device" in answer["error"]) == (400, True), answer
        assert frontend.read(0, 4096) == BLOCK
        frontend.write(0, b"n" * 4096)
        assert frontend.read(0, 8192) == b"n" * 4096 + BLOCK
