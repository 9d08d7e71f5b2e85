"""A driver's write cache is as the driver left it, whatever becomes of the engine."""

import signal
from pathlib import Path

import pytest

from ringblk.engine.devices.features import F_EVENT_IDX
from ringblk.engine.drives.record import record_of_process
from ringblk.shm.segments.record_file import remove_record
from ringblk.workers.block.protocol import F_CONFIG_WCE
from tests.rigs.engine_rig import Engine, RawQueue
from tests.rigs.inline_device import OUT
from tests.rigs.succession import DISK_BYTES, QUEUE_SIZE, WAYS, Guest, succeeded


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
