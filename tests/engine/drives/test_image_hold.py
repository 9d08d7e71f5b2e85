"""`--lock`: which of two engines has an image, from the start of a guest on one to its life on the other.

Fault model: engines are killed while they hold the image or wait for it, front ends hang up while they wait,
moves are cancelled, a flush fails.
"""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.devices.device import DeviceError
from ringblk.engine.drives.image_hold import ImageHold
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.workers.backends import image_lock
from ringblk.workers.backends.file import FileBackend
from ringblk.workers.backends.image_lock import ImageLock
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.memory import MemoryBackend
from tests.rigs.control_client import ControlClient
from tests.rigs.dirty_log import logged
from tests.rigs.engine_rig import (
    DEADLINE_S,
    Engine,
    RawFrontend,
    eventually,
    own_lines,
    raw_frontend,
    run_program,
)
from tests.rigs.inline_device import IN, OK, OUT

WAITS = "the queues wait for the image"
DATA = b"what the first guest wrote".ljust(512, b".")


@contextmanager
def opened(image: Path) -> Iterator[ImageLock]:
    """The lock of an image as another program sees it."""
    fd = os.open(image, os.O_RDWR)
    yield ImageLock(fd, False)
    os.close(fd)


def is_held(image: Path) -> bool:
    with opened(image) as lock:
        return lock.is_held_by_another()


def wait_for_image(engine: Engine, frontend: RawFrontend) -> None:
    """Start a queue where another engine has the image: the front end is answered, the queue rests."""
    frontend.set_up()
    frontend.queues[0].offer(IN, read_bytes=512)
    eventually(lambda: WAITS in engine.log(), "the queue waits")
    assert frontend.connection.get_queue_num() == 1
    assert frontend.queues[0].driver.used() == []


def read_waited_for(frontend: RawFrontend) -> bytes:
    """What the read found that has waited."""
    queue = frontend.queues[0]
    queue.wait_used(1)
    return queue.request(IN, read_bytes=512)[1]


def test_a_queue_that_stops_for_a_pause_keeps_the_image(image: Path) -> None:
    with Engine(f"--blk-file={image}") as engine:
        assert is_held(image)
        with raw_frontend(engine) as frontend:
            frontend.connection.get_vring_base(0)
            assert is_held(image)
        engine.say_hello()
        assert is_held(image)


def test_a_guest_that_moves_away_gives_the_image_up_and_takes_it_back(image: Path) -> None:
    with Engine(f"--blk-file={image}") as engine, raw_frontend(engine) as frontend:
        for _ in range(2):  # a move that is cancelled, and another
            with logged(frontend):
                frontend.connection.get_vring_base(0)
                assert not is_held(image)
            frontend.start_queue(0)
            assert is_held(image)
        frontend.queues[0].request(OUT, data=DATA)
        frontend.connection.close()
        eventually(lambda: not is_held(image), "the image to be given up with its front end")


def test_with_lock_running_it_is_held_while_a_queue_runs(image: Path) -> None:
    with Engine(f"--blk-file={image}", "--lock=running", "--num-queues=2") as engine:
        assert not is_held(image)
        with raw_frontend(engine, num_queues=2) as frontend:
            frontend.connection.get_vring_base(0)
            assert is_held(image)
            frontend.connection.get_vring_base(1)
            assert not is_held(image)
            frontend.start_queue(1)
            assert is_held(image)
        eventually(lambda: not is_held(image), "the image to be given up with its front end")


def test_a_guest_moves_with_an_image_that_is_only_read(image: Path) -> None:
    """Readers share it, whatever `--lock` says; three hops, and nobody waits."""
    image.write_bytes(DATA.ljust(1 << 20, b"."))
    options = (f"--blk-file={image}", "--read-only")
    with Engine(*options) as first, Engine(*options) as second, raw_frontend(first) as guest:
        for target in (second, first, second):
            with logged(guest) as log:
                status_gpa = guest.queues[0].offer(IN, read_bytes=512) + 512
                guest.queues[0].wait_used(1)
                assert status_gpa // 4096 in log.pages()
                guest.connection.get_vring_base(0)
            guest.connection.close()
            guest.connect(target)
            guest.set_up()
            assert guest.queues[0].request(IN, read_bytes=512) == (OK, DATA)
            assert WAITS not in target.log()


def test_with_lock_always_it_is_never_given_up(image: Path) -> None:
    with Engine(f"--blk-file={image}", "--lock=always") as engine, raw_frontend(engine) as frontend:
        with logged(frontend):
            frontend.connection.get_vring_base(0)
        second = run_program("--socket-path=x", f"--blk-file={image}", "--lock=running")
        assert second.returncode == 1
        assert f"in use by another engine (process {engine.process.pid})" in second.stderr


def test_the_target_waits_for_the_source(image: Path) -> None:
    with (
        Engine(f"--blk-file={image}") as source,
        Engine(f"--blk-file={image}", "--lock=running") as target,
        raw_frontend(source) as leaving,
        RawFrontend(target) as arriving,
    ):
        assert f"the image is in use by another engine (process {source.process.pid})" in target.log()
        wait_for_image(target, arriving)
        assert leaving.queues[0].request(OUT, data=DATA) == (OK, b"")
        with logged(leaving):
            leaving.connection.get_vring_base(0)
        assert read_waited_for(arriving) == DATA
        arriving.connection.close()  # the guest is to go on at the source after all
        leaving.start_queue(0)
        assert leaving.queues[0].request(IN, read_bytes=512) == (OK, DATA)


def test_a_second_engine_that_nobody_meant_is_refused(image: Path) -> None:
    with Engine(f"--blk-file={image}") as engine:
        second = run_program("--socket-path=x", f"--blk-file={image}")
        assert second.returncode == 1
        assert own_lines(second).splitlines() == [
            f"vhost-user-ringblk: --blk-file {image}: in use by another engine (process {engine.process.pid})"
        ]


def test_an_image_that_was_given_up_is_not_there_for_other_programs(image: Path) -> None:
    with Engine(f"--blk-file={image}", "--lock=running"), opened(image) as lock:
        with pytest.raises(image_lock.ImageLocked):
            lock.lock()
        lock.announce()
        lock.hold()


def test_a_front_end_that_hangs_up_waits_no_more(image: Path) -> None:
    with (
        Engine(f"--blk-file={image}") as source,
        raw_frontend(source) as staying,
        Engine(f"--blk-file={image}", "--lock=running") as target,
    ):
        with RawFrontend(target) as cancelled:
            wait_for_image(target, cancelled)
        target.say_hello()
        assert staying.queues[0].request(OUT, data=DATA) == (OK, b"")
        assert target.end() == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_target_goes_on_when_the_source_has_ended(image: Path, number: int) -> None:
    with (
        Engine(f"--blk-file={image}") as source,
        raw_frontend(source) as leaving,
        Engine(f"--blk-file={image}", "--lock=running") as target,
        RawFrontend(target) as arriving,
    ):
        assert leaving.queues[0].request(OUT, data=DATA) == (OK, b"")
        wait_for_image(target, arriving)
        source.end(number)
        assert read_waited_for(arriving) == DATA


def test_a_target_that_waits_ends_when_told_to(image: Path) -> None:
    with (
        Engine(f"--blk-file={image}") as source,
        raw_frontend(source),
        Engine(f"--blk-file={image}", "--lock=running") as target,
        RawFrontend(target) as arriving,
    ):
        wait_for_image(target, arriving)
        assert target.end() == 0


def test_takeover_ends_an_engine_that_has_given_its_image_up(image: Path) -> None:
    options = (f"--blk-file={image}", "--lock=running")
    with Engine(*options) as former, Engine(*options, "--takeover") as successor:
        assert former.process.wait(DEADLINE_S) == 0
        assert f"taking over from the engine of process {former.process.pid}" in successor.log()


def test_who_has_not_the_image_does_not_change_its_size(image: Path, tmp_path: Path) -> None:
    control = tmp_path / "control"
    with (
        Engine(f"--blk-file={image}") as source,
        Engine(f"--blk-file={image}", "--lock=running", f"--control={control}") as target,
    ):
        assert target.process.poll() is None
        client = ControlClient(control)
        status, answer = client.ask("PATCH", "/drive", {"size_bytes": 1 << 21})
        assert status == 400
        assert "in use by a running engine" in str(answer)
        assert image.stat().st_size == 1 << 20
        assert source.end() == 0
        client.change("/drive", size_bytes=1 << 21)
        assert image.stat().st_size == 1 << 21


# Alone.


def hold_of(backend: FileBackend, lock: str, *, asked_direct: str = "auto") -> ImageHold:
    return ImageHold(DriveConfig(blk_file="image", lock=lock, direct=asked_direct), backend)  # type: ignore[arg-type]


def test_an_image_whose_flush_fails_is_kept(image: Path) -> None:
    backend = FileBackend(image, direct="off")
    hold = hold_of(backend, "auto")
    hold.claim()
    flushed: list[bool] = []

    async def flush() -> None:
        flushed.append(True)
        if len(flushed) == 1:
            raise DeviceError("Input/output error")

    asyncio.run(hold.queues_stopped(flush, is_moving=True))
    assert is_held(image)
    asyncio.run(hold.queues_stopped(flush, is_moving=True))
    assert not is_held(image)
    assert len(flushed) == 2
    backend.close()


def test_what_goes_past_the_page_cache_is_given_up_without_a_flush(image: Path) -> None:
    """The guest's next flush, at the other engine, is of the same device."""
    try:
        backend = FileBackend(image, direct="on")
    except BackendError as error:
        pytest.skip(f"no direct I/O here: {error}")
    hold = hold_of(backend, "auto")
    hold.claim()

    async def flush() -> None:
        raise AssertionError("the guest waits for a flush")

    asyncio.run(hold.queues_stopped(flush, is_moving=True))
    assert not is_held(image)
    backend.close()


def test_the_page_cache_of_a_shared_file_is_no_place_to_move_from(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = FileBackend(image, direct="off")
    assert hold_of(backend, "auto").can_be_given_up
    monkeypatch.setattr(image_lock, "is_network_file_system", lambda fd: True)
    with pytest.raises(ProgramError, match="other hosts may have it open") as caught:
        hold_of(backend, "running")
    assert caught.value.exit_status == 1
    assert not hold_of(backend, "auto").can_be_given_up
    assert hold_of(backend, "running", asked_direct="off").can_be_given_up
    backend.close()


def test_what_has_no_lock_takes_no_lock_option() -> None:
    with pytest.raises(ProgramError, match="--lock always: this backend has no image to lock"):
        ImageHold(DriveConfig(backend="memory", lock="always"), MemoryBackend(4096))
