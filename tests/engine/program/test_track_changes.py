"""An engine tracks what changes of an image: whatever of it is killed, no changed block is missing."""

import os
import random
from pathlib import Path

import pytest

from ringblk import Frontend
from ringblk.engine.frontend.request import BackendGone
from ringblk.engine.images.changes_command import changed_extents
from tests.rigs.engine_process import EngineProcess
from tests.rigs.image_command import run_image
from tests.rigs.many_drives import ManyDrives
from tests.rigs.stalling_file import stalling_file

MIB = 1 << 20
SIZE_BYTES = 65 * MIB
IO_ENGINES = ["psync", "io_uring", "sync", "io_uring_inline"]


class TrackedDrive:
    """An engine that tracks, its front end, and what the image was at each point."""

    def __init__(self, folder: Path, io_engine: str) -> None:
        self.image, self.changes = folder / "image", folder / "changes"
        with self.image.open("wb") as file:
            file.truncate(SIZE_BYTES)
        self._socket_path = folder / "socket"
        self._options = [f"--blk-file={self.image}", f"--track-changes={self.changes}"]
        self._options += [f"--io-engine={io_engine}", "--workers=2"]
        self.engine = EngineProcess(self._socket_path, self._options).wait_listening()
        self.disk = Frontend(str(self._socket_path), request_timeout_s=30.0)
        self.at_points = {"start": self.image.read_bytes()}

    def write(self, chance: random.Random, count: int = 20) -> None:
        for _ in range(count):
            offset = chance.randrange(SIZE_BYTES // 512 - 64) * 512
            if chance.random() < 0.2:
                self.disk.write_zeroes(offset, 512 * chance.randrange(1, 64))
            else:
                self.disk.write(offset, chance.randbytes(512 * chance.randrange(1, 64)))

    def set_point(self, name: str) -> None:
        self.at_points[name] = self.image.read_bytes()
        assert run_image("point", self.changes, name) == 0

    def begin_again(self) -> None:
        """Another engine, after the last one was killed."""
        self.engine.wait_end()
        self.engine.end()
        self.engine = EngineProcess(self._socket_path, self._options).wait_listening()
        with pytest.raises(BackendGone):
            self.disk.read(0, 512)
        self.disk.reconnect(str(self._socket_path))

    def check(self, capsys: pytest.CaptureFixture[str]) -> dict[str, int]:
        """Each change since each point is told; how many bytes that are."""
        now, told = self.image.read_bytes(), {}
        for name, before in self.at_points.items():
            capsys.readouterr()
            assert run_image("diff", self.changes, f"--since={name}") == 0
            patched = bytearray(before)
            told[name] = 0
            for line in capsys.readouterr().out.splitlines():
                offset, length = map(int, line.split())
                patched[offset : offset + length] = now[offset : offset + length]
                told[name] += length
            assert patched == now, name
        return told

    def close(self) -> None:
        self.disk.close()
        self.engine.end()


@pytest.mark.parametrize("io_engine", IO_ENGINES)
def test_no_change_is_missing_whoever_is_killed(
    shm_path: Path, io_engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(IO_ENGINES.index(io_engine))
    drive = TrackedDrive(shm_path, io_engine)
    try:
        drive.write(chance)
        drive.set_point("monday")
        drive.write(chance, 3)
        told = drive.check(capsys)
        assert told["monday"] < told["start"]
        dispatcher = drive.engine.children()["dispatcher"]
        drive.engine.kill("dispatcher")
        drive.engine.wait_child("dispatcher", dispatcher)
        drive.write(chance, 3)
        drive.set_point("tuesday")
        drive.engine.kill("supervisor")
        drive.engine.wait_end()
        drive.check(capsys)
        drive.begin_again()
        drive.write(chance, 3)
        drive.check(capsys)
        drive.set_point("wednesday")
        assert drive.check(capsys)["wednesday"] == 0
    finally:
        drive.close()
    assert drive.check(capsys)["wednesday"] == 0


def test_what_does_not_go_with_tracking(shm_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from ringblk.engine.base.program_error import ProgramError
    from ringblk.engine.options.drive_config import DriveConfig

    for options, reason in (
        ({"backend": "null"}, "only for --blk-file"),
        ({"blk_file": "image", "read_only": True}, "not with --read-only"),
        ({"blk_file": "image", "lock": "running"}, "--lock running"),
    ):
        with pytest.raises(ProgramError, match=reason):
            DriveConfig(socket_path="socket", track_changes="changes", **options).check()
    assert run_image("point", shm_path, "monday") == 1
    assert "tracks no changes" in capfd.readouterr().err


def test_a_point_needs_a_name_of_its_own(shm_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drive = TrackedDrive(shm_path, "auto")
    try:
        drive.set_point("monday")
        for name in ("monday", "start", "", "n" * 200):
            assert run_image("point", drive.changes, name) == 1
            assert capsys.readouterr().err.count("\n") == 1
        assert run_image("diff", drive.changes, "--since=never") == 1
        assert "has no point never; it has start, monday" in capsys.readouterr().err
        assert run_image("info", drive.changes) == 0
        assert "point           monday" in capsys.readouterr().out
    finally:
        drive.close()
    assert os.path.exists(drive.changes / "point-00000001")


@pytest.mark.parametrize("io_engine", ["psync", "io_uring"])
def test_a_write_that_is_under_way_when_a_point_is_set(
    tmp_path: Path, io_engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may reach the image after the point: so it counts since then, too."""
    with stalling_file(tmp_path, MIB) as file:
        changes = tmp_path / "changes"
        options = [f"--blk-file={file.path}", f"--track-changes={changes}", f"--io-engine={io_engine}"]
        with (
            EngineProcess(tmp_path / "socket", options) as engine,
            Frontend(str(engine.socket_path), request_timeout_s=30.0) as disk,
        ):
            disk.write(8192, b"a" * 4096)
            file.stall()
            buffer = disk.allocate(4096, 4096)
            buffer.view[:] = b"b" * 4096
            token = disk.submit_write(65536, buffer)
            disk.submit()
            file.wait_for(lambda: file.held_offsets == [65536])
            assert run_image("point", changes, "monday") == 0
            file.go_on()
            assert disk.wait(token, 30.0).status == 0
            assert run_image("diff", changes, "--since=monday") == 0
            assert capsys.readouterr().out == "65536 4096\n"


def test_a_tracked_drive_keeps_its_size(tmp_path: Path) -> None:
    """One line says why, and what to do instead."""
    with ManyDrives({}) as engine:
        assert engine.put("vm", track_changes=str(tmp_path / "changes"))[0] == 201
        size_bytes = engine.control.get("/drives/vm")["state"]["size_bytes"]
        assert engine.control.change("/drives/vm", size_bytes="image")["state"]["size_bytes"] == size_bytes
        for size in (size_bytes * 2, size_bytes // 2):
            status, answer = engine.control.ask("PATCH", "/drives/vm", {"size_bytes": size})
            assert (status, "with another folder for track_changes" in answer["error"]) == (400, True)
        os.truncate(engine.image("vm"), 2 * size_bytes)
        status, answer = engine.control.ask("PATCH", "/drives/vm", {"size_bytes": "image"})
        assert (status, "so it keeps its size" in answer["error"]) == (400, True)


def test_a_drive_that_is_added_tracks_its_changes(tmp_path: Path) -> None:
    """Its image and the map are opened in another process then."""
    changes = tmp_path / "changes"
    with ManyDrives({}) as engine:
        assert engine.put("vm", track_changes=str(changes))[0] == 201
        with engine.frontend("vm") as disk:
            disk.write(4096, b"a" * 4096)
            assert run_image("point", changes, "monday") == 0
            disk.write(12288, b"b" * 4096)
            assert told(changes, "monday") == [(12288, 4096)]
            status, answer = engine.put("other", blk_file=str(engine.image("vm")), track_changes=str(changes))
            assert (status, "in use" in answer["error"] or "too" in answer["error"]) == (409, True)
        engine.delete("vm")
        assert engine.put("vm", track_changes=str(changes))[0] == 201
        assert told(changes, "monday") == [(12288, 4096)]  # it ended well
        assert told(changes, "start") == [(4096, 4096), (12288, 4096)]


def told(changes: Path, since: str) -> list[tuple[int, int]]:
    return [(extent.offset, extent.length) for extent in changed_extents(str(changes), since)]
