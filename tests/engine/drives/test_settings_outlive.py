"""What was set while an engine ran holds in the next one, however the first one ended."""

import os
import signal
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

import pytest

from ringblk.engine.drives.names import record_prefix, supervisor_of
from ringblk.engine.drives.record import record_of_process, socket_digest
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.shm.segments.shared_folder import FOLDER, shared_names
from tests.rigs.control_client import ControlClient
from tests.rigs.engine_process import wait_gone
from tests.rigs.engine_rig import NOBODY, Engine, RawFrontend, accepts, eventually
from tests.rigs.inline_device import OUT
from tests.rigs.succession import DISK_BYTES, QUEUE_SIZE, WAYS, Guest, succeeded

# The driver's write cache.


# What was set over the control API.


class Drive:
    """Options of a drive with a control socket, and its client."""

    def __init__(self, image: Path, *options: str) -> None:
        self.control = ControlClient(image.with_suffix(".sock"))
        self.options = [f"--blk-file={image}", f"--control={self.control.socket_path}", *options]

    def told(self) -> dict[str, Any]:
        """How the drive is set, as the control API tells."""
        description = self.control.get()
        drive = description["drive"]
        names = ("bps", "bps_read", "burst", "one_time_burst", "iops", "cache", "is_root_device", "partuuid")
        workers = description["worker_count"]
        return {name: drive[name] for name in names} | {
            "is_paused": description["is_paused"],
            "workers": workers,
        }


@pytest.mark.parametrize("way", WAYS)
def test_what_was_set_while_running_holds_in_the_next_engine(image: Path, way: str) -> None:
    drive = Drive(image, "--workers=2", "--bps=1000000", "--iops=70")
    with Engine(*drive.options) as old, Guest(old, queue_size=QUEUE_SIZE) as guest:
        guest.begin()
        drive.control.change(
            "/drive", bps=5 << 20, burst=1 << 20, one_time_burst=7, bps_read=3 << 20, cache="writethrough"
        )
        drive.control.change("/drive", is_root_device=True, partuuid="0eaa91a0-01")
        drive.control.change("/workers", count=3)
        drive.control.post("/pause")
        told = drive.told()
        assert (told["bps"], told["one_time_burst"], told["workers"]) == (5 << 20, 7, 3)
        with succeeded(old, way, *drive.options) as new:
            assert drive.told() == told
            line = next(line for line in new.log().splitlines() if "and taken over" in line)
            for words in ("bps 5.00 MiB/s", "cache writethrough", "3 workers", "paused", "--forget-changes"):
                assert words in line
            drive.control.post("/resume")
            guest.go_on(new)
            assert guest.queues[0].request(OUT, data=bytes(512))[0] == 0


def test_only_what_was_changed_stands_over_the_options(image: Path) -> None:
    drive = Drive(image, "--workers=2")
    with Engine(*drive.options, "--bps=1000000", "--iops=70") as old, Guest(old) as guest:
        guest.negotiate()
        drive.control.change("/drive", bps=2_000_000)
        old.end(signal.SIGKILL)
        with Engine(*drive.options, "--bps=3000000", "--iops=90", after=old):
            assert (drive.told()["bps"], drive.told()["iops"]) == (2_000_000, 90)
            drive.control.change("/drive", bps=3_000_000)  # as the options say: no change any more
        with Engine(*drive.options, "--bps=4000000", after=old):
            assert (drive.told()["bps"], drive.told()["iops"]) == (4_000_000, None)


def test_changes_are_forgotten_where_that_is_asked_for(image: Path) -> None:
    drive = Drive(image, "--bps=1000000")
    with Engine(*drive.options) as old:
        drive.control.change("/drive", bps=2_000_000, cache="unsafe")
        old.end(signal.SIGKILL)
        with Engine(*drive.options, "--forget-changes", after=old) as new:
            assert (drive.told()["bps"], drive.told()["cache"]) == (1_000_000, "writeback")
            assert "forgotten, as asked: bps 1.91 MiB/s, cache unsafe" in new.log()


def has_record(engine: Engine) -> bool:
    """Its own: an engine that was killed may have had the number of its process before."""
    found = record_of_process(engine.process.pid)
    config = DriveConfig(socket_path=str(engine.socket_path))
    return found is not None and found.record.socket == socket_digest(config)


def test_a_clean_end_without_a_front_end_ends_the_drive(image: Path) -> None:
    drive = Drive(image)
    with Engine(*drive.options) as old:
        drive.control.change("/drive", bps=2_000_000)
        assert has_record(old)
        assert old.end() == 0
        assert not has_record(old)


def test_an_engine_that_was_never_used_leaves_nothing_at_its_end(image: Path) -> None:
    with Engine(f"--blk-file={image}") as engine, RawFrontend(engine):
        assert engine.end() == 0
        assert not has_record(engine)


def test_what_cannot_be_taken_over_is_in_the_log(image: Path) -> None:
    drive = Drive(image)
    with Engine(*drive.options, "--workers=2") as old:
        drive.control.change("/drive", iops=500)
        drive.control.change("/workers", count=3)
        drive.control.post("/pause")
        old.end(signal.SIGKILL)
        group = f"test-{uuid.uuid4().hex}"
        options = [f"--blk-file={image}", "--io-engine=sync", f"--rate-group={group}"]
        with Engine(*options, after=old) as new, Guest(new, queue_size=QUEUE_SIZE) as guest:
            line = next(line for line in new.log().splitlines() if "and not taken over" in line)
            assert "limits (iops 500/s): the group's hold" in line
            assert "3 workers: this engine has none" in line
            assert "paused: without --control nobody could resume it" in line
            guest.begin()
            assert guest.queues[0].request(OUT, data=bytes(512))[0] == 0


def test_an_image_that_got_the_inode_of_another_is_another_drive(image: Path) -> None:
    drive = Drive(image)
    with Engine(*drive.options) as old:
        drive.control.change("/drive", iops=500)
        old.end(signal.SIGKILL)
        found = record_of_process(old.process.pid)
        assert found is not None
        assert found.record.drive.generation != 0
        os.unlink(image)
        image.write_bytes(bytes(DISK_BYTES))
        with Engine(*drive.options, after=old):
            assert drive.told()["iops"] is None


def test_readers_of_one_image_have_a_record_each(image: Path) -> None:
    drive = Drive(image, "--read-only")
    with Engine(*drive.options) as one, Engine(f"--blk-file={image}", "--read-only"):
        drive.control.change("/drive", iops=500)
        one.end(signal.SIGKILL)
        with Engine(f"--blk-file={image}", "--read-only") as elsewhere:
            assert "taken over" not in elsewhere.log()
        with Engine(*drive.options, after=one):
            assert drive.told()["iops"] == 500


# A rate group.


AS_NOBODY = (  # imported before: this user may not read where Python is
    "import os, sys, tempfile; from ringblk.engine.program import cli, serve\n"
    "from ringblk.engine.control import engine_control, server\n"
    "from ringblk.engine.statistics import statistics\n"
    f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY}); cli.backend_program()"
)


def start_as_nobody(way: str, *options: str, after: Engine | None = None) -> Engine:
    """Start it as that user, or as root that has it become that user."""
    if way == "root":
        return Engine(*options, "--user=nobody", owner=NOBODY, after=after)
    return Engine(*options, owner=NOBODY, after=after, program=[sys.executable, "-c", AS_NOBODY])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may take on another user")
@pytest.mark.parametrize("way", ["killed", "taken over"])
@pytest.mark.parametrize(("before", "after"), [("root", "root"), ("root", "nobody"), ("nobody", "root")])
def test_it_holds_however_the_engine_became_its_user(before: str, after: str, way: str) -> None:
    """In the end nothing is left of either."""
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, NOBODY, NOBODY)
        image, control = Path(folder) / "disk.img", ControlClient(Path(folder) / "control")
        image.write_bytes(bytes(DISK_BYTES))
        os.chown(image, NOBODY, NOBODY)
        options = [f"--blk-file={image}", f"--control={control.socket_path}", "--workers=1"]
        with start_as_nobody(before, *options) as old:
            eventually(lambda: accepts(control.socket_path), "the control API")
            control.change("/drive", bps=5_000_000, cache="writethrough")
            if way == "killed":
                children = old.children()
                old.end(signal.SIGKILL)
                wait_gone(list(children))
            else:
                options.append("--takeover")
            with start_as_nobody(after, *options, after=old) as new:
                drive = control.get()["drive"]
                assert (drive["bps"], drive["cache"]) == (5_000_000, "writethrough"), new.log()
                assert "has left no record" not in new.log()
                assert new.end() == 0
                pids = [old.process.pid, new.process.pid]
        assert [name for name in shared_names(record_prefix()) if supervisor_of(name) in pids] == []


@pytest.mark.parametrize("way", WAYS)
def test_the_limits_of_a_group_outlive_its_last_member(image: Path, way: str) -> None:
    group = f"test-{uuid.uuid4().hex}"
    drive = Drive(image, f"--rate-group={group}", "--workers=1", "--bps=1000000", "--iops=70")
    with Engine(*drive.options) as old, Guest(old, queue_size=QUEUE_SIZE) as guest:
        guest.begin()
        drive.control.change("/drive", bps=2_000_000)
        with succeeded(old, way, *drive.options) as new:
            assert (drive.told()["bps"], drive.told()["iops"]) == (2_000_000, 70)
            assert f"rate group {group}: set while it was there before, and taken over: bps" in new.log()
            guest.connection.close()
            new.say_hello()
            assert new.end() == 0
    assert not (Path(FOLDER) / f"ringblk-rate-{group}").exists()
    with Engine(*drive.options):
        assert drive.told()["bps"] == 1_000_000


def test_every_member_tells_the_groups_limits(image: Path, tmp_path: Path) -> None:
    group = f"test-{uuid.uuid4().hex}"
    drive = Drive(image, f"--rate-group={group}", "--workers=1", "--bps=1000000")
    other_image = tmp_path / "other.img"
    other_image.write_bytes(bytes(DISK_BYTES))
    other = Drive(other_image, f"--rate-group={group}", "--workers=1")
    with Engine(*drive.options), Engine(*other.options):
        assert other.told()["bps"] == 1_000_000
        other.control.change("/drive", bps=3_000_000)
        assert drive.told()["bps"] == 3_000_000
