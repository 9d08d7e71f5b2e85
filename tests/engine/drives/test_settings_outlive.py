"""What was set while an engine ran holds in the next one, however the first one ended."""

import contextlib
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringblk.engine.devices.features import F_EVENT_IDX
from ringblk.engine.drives.record import PREFIX, record_of_process
from ringblk.shm.segments.record_file import FOLDER, record_names, remove_record
from ringblk.workers.block.config_space import WRITEBACK_OFFSET_BYTES
from ringblk.workers.block.protocol import F_CONFIG_WCE
from tests.rigs.control_client import ControlClient
from tests.rigs.engine_rig import DEADLINE_S, NOBODY, Engine, RawFrontend, RawQueue, eventually
from tests.rigs.inline_device import OUT

DISK_BYTES = 1 << 20
WAYS = ("killed", "told to end", "taken over")
QUEUE_SIZE = 16


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(DISK_BYTES))
    return path


@contextlib.contextmanager
def succeeded(old: Engine, way: str, *options: str) -> Iterator[Engine]:
    """The engine after this one, which ends in one of the `WAYS`."""
    if way == "killed":
        children = old.children()
        old.end(signal.SIGKILL)
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "the children's end")
    elif way == "told to end":
        assert old.end() == 0
    takeover = ["--takeover"] if way == "taken over" else []
    with Engine(*options, *takeover, after=old) as new:
        assert old.process.wait(DEADLINE_S) == (-signal.SIGKILL if way == "killed" else 0)
        yield new


# The driver's write cache.


class NotingDisk:
    """A backend that says how often it was flushed."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "noted.img"
        self.options = [
            "--backend=flush_noting_disk:FlushNotingDisk",
            f"--backend-arg=size_bytes={DISK_BYTES}",
            f"--backend-arg=path={self._path}",
            "--workers=1",
        ]

    def is_flushed_by(self, queue: RawQueue) -> bool:
        """Whether a write is made stable."""
        notes = Path(f"{self._path}.flushes")
        before = notes.stat().st_size
        assert queue.request(OUT, data=bytes(512))[0] == 0
        return notes.stat().st_size > before


@pytest.fixture
def disk(tmp_path: Path) -> NotingDisk:
    return NotingDisk(tmp_path)


class Guest(RawFrontend):
    """A front end that keeps an in-flight region, as QEMU does."""

    def __enter__(self) -> "Guest":
        return self

    def begin(self) -> "Guest":
        self.negotiate()
        self.add_memory()
        self.inflight = self.connection.get_inflight(1, QUEUE_SIZE)
        self.connection.set_inflight(*self.inflight)
        self.start_queue(0)
        return self

    def go_on(self, engine: Engine, *, with_inflight: bool = True) -> None:
        """Connect to the next engine; nothing that was written to the config space is written again."""
        self.connection.close()
        self.connect(engine)
        self.negotiate()
        self.add_memory()
        if with_inflight:
            self.connection.set_inflight(*self.inflight)
        self.start_queue(0)

    def write_back(self, value: int) -> None:
        self.connection.set_config(WRITEBACK_OFFSET_BYTES, bytes([value]))

    @property
    def shown_writeback(self) -> int:
        return self.connection.get_config(WRITEBACK_OFFSET_BYTES, 1)[0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("with_inflight", [True, False])
def test_a_write_cache_that_was_turned_off_stays_off(disk: NotingDisk, way: str, with_inflight: bool) -> None:
    with Engine(*disk.options) as old, Guest(old, queue_size=QUEUE_SIZE) as guest:
        guest.begin()
        assert not disk.is_flushed_by(guest.queues[0])
        guest.write_back(0)
        assert disk.is_flushed_by(guest.queues[0])
        with succeeded(old, way, *disk.options) as new:
            guest.go_on(new, with_inflight=with_inflight)
            assert disk.is_flushed_by(guest.queues[0])
            assert guest.shown_writeback == 0
            guest.write_back(1)
            assert not disk.is_flushed_by(guest.queues[0])
            with succeeded(new, way, *disk.options) as third:
                guest.go_on(third, with_inflight=with_inflight)
                assert not disk.is_flushed_by(guest.queues[0])


def test_it_stays_off_over_several_engines_that_served_nobody(disk: NotingDisk) -> None:
    with Engine(*disk.options) as first, Guest(first, queue_size=QUEUE_SIZE) as guest:
        guest.begin()
        guest.write_back(0)
        with (
            succeeded(first, "killed", *disk.options) as second,
            succeeded(second, "killed", *disk.options) as third,
        ):
            guest.go_on(third)
            assert disk.is_flushed_by(guest.queues[0])


def test_other_engines_leave_the_record_of_one_that_was_killed(disk: NotingDisk, image: Path) -> None:
    with Engine(*disk.options) as old, Guest(old, queue_size=QUEUE_SIZE) as guest:
        guest.begin()
        guest.write_back(0)
        old.end(signal.SIGKILL)
        with Engine(f"--blk-file={image}", "--workers=1"), Engine(*disk.options, after=old) as new:
            guest.go_on(new)
            assert disk.is_flushed_by(guest.queues[0])


@pytest.mark.parametrize("with_inflight", [True, False])
def test_where_nothing_is_known_every_write_is_stable(disk: NotingDisk, with_inflight: bool) -> None:
    with Engine(*disk.options) as old, Guest(old, queue_size=QUEUE_SIZE) as guest:
        guest.begin()
        assert not disk.is_flushed_by(guest.queues[0])
        old.end(signal.SIGKILL)
        found = record_of_process(old.process.pid)
        assert found is not None
        remove_record(found.name)
        with Engine(*disk.options, after=old) as new:
            guest.go_on(new, with_inflight=with_inflight)
            assert disk.is_flushed_by(guest.queues[0])
            assert "nothing is known of the write cache" in new.log()
            guest.write_back(1)
            assert not disk.is_flushed_by(guest.queues[0])


def test_an_untouched_inflight_region_is_no_sign_of_an_earlier_driver(disk: NotingDisk) -> None:
    with Engine(*disk.options) as engine, Guest(engine, queue_size=QUEUE_SIZE) as guest:
        guest.begin()
        assert not disk.is_flushed_by(guest.queues[0])


def test_a_driver_that_has_no_say_is_not_held_to_it(disk: NotingDisk) -> None:
    with Engine(*disk.options) as engine, Guest(engine, queue_size=QUEUE_SIZE, start_idx=7) as guest:
        offered = guest.connection.get_features()
        guest.negotiate(offered & ~(F_CONFIG_WCE | F_EVENT_IDX))
        guest.add_memory()
        guest.start_queue(0)
        assert not disk.is_flushed_by(guest.queues[0])  # it has FLUSH, and always had


def test_a_front_end_that_comes_back_to_the_same_engine_finds_it_off(disk: NotingDisk) -> None:
    with Engine(*disk.options) as engine, Guest(engine, queue_size=QUEUE_SIZE) as guest:
        guest.begin()
        guest.write_back(0)
        assert disk.is_flushed_by(guest.queues[0])
        guest.go_on(engine)
        assert disk.is_flushed_by(guest.queues[0])


def test_a_virtual_machine_that_is_stopped_and_goes_on_finds_it_off(disk: NotingDisk) -> None:
    """QEMU writes a status of 0 then as well; the rings tell that it is no reset of the driver's."""
    with Engine(*disk.options) as engine, Guest(engine, queue_size=QUEUE_SIZE) as guest:
        guest.begin()
        guest.write_back(0)
        assert disk.is_flushed_by(guest.queues[0])
        guest.connection.get_vring_base(0)
        features = guest.connection.get_features()
        guest.connection.reset_device()
        guest.connection.set_features(features & ~F_EVENT_IDX)
        guest.connection.set_inflight(*guest.inflight)
        guest.start_queue(0)
        assert disk.is_flushed_by(guest.queues[0])


@pytest.mark.parametrize("resets", [True, False])
def test_a_driver_that_begins_anew_begins_with_the_cache_on(disk: NotingDisk, resets: bool) -> None:
    with Engine(*disk.options) as engine, Guest(engine, queue_size=QUEUE_SIZE) as guest:
        guest.begin()
        guest.write_back(0)
        assert disk.is_flushed_by(guest.queues[0])
        if resets:
            guest.connection.reset_device()
        else:
            guest.connection.get_vring_base(0)
        features = guest.connection.get_features()
        guest.connection.set_features(features & ~F_EVENT_IDX)
        guest.queues[0].driver.start_at(0)
        guest.start_queue(0)
        assert guest.shown_writeback == 1
        assert not disk.is_flushed_by(guest.queues[0])


def test_another_guest_at_the_next_engine_begins_with_the_cache_on(disk: NotingDisk) -> None:
    with Engine(*disk.options) as old, Guest(old, queue_size=QUEUE_SIZE) as guest:
        guest.begin()
        guest.write_back(0)
        with succeeded(old, "killed", *disk.options) as new, Guest(new, queue_size=QUEUE_SIZE) as other:
            other.begin()
            assert not disk.is_flushed_by(other.queues[0])


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
        workers = sum(role.startswith("worker") for role in description["processes"])
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


def test_a_clean_end_without_a_front_end_ends_the_drive(image: Path) -> None:
    drive = Drive(image)
    with Engine(*drive.options) as old:
        drive.control.change("/drive", bps=2_000_000)
        assert record_of_process(old.process.pid) is not None
        assert old.end() == 0
        assert record_of_process(old.process.pid) is None


def test_an_engine_that_was_never_used_leaves_nothing_at_its_end(image: Path) -> None:
    with Engine(f"--blk-file={image}") as engine, RawFrontend(engine):
        assert engine.end() == 0
        assert record_of_process(engine.process.pid) is None


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
    "import os, sys; from ringblk.engine.program import cli, serve\n"
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
            eventually(control.socket_path.exists, "the control API")
            control.change("/drive", bps=5_000_000, cache="writethrough")
            if way == "killed":
                children = old.children()
                old.end(signal.SIGKILL)
                eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "their end")
            else:
                options.append("--takeover")
            with start_as_nobody(after, *options, after=old) as new:
                drive = control.get()["drive"]
                assert (drive["bps"], drive["cache"]) == (5_000_000, "writethrough"), new.log()
                assert "has left no record" not in new.log()
                assert new.end() == 0
                pids = [str(old.process.pid), str(new.process.pid)]
        assert [name for name in record_names(PREFIX) if name.split("-")[3] in pids] == []


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
