"""The verified load: quiet on a disk that is right, loud on one that is wrong."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringblk import Frontend, RequestType, engine_command
from ringblk.engine.load.verified_load import LoadSettings, VerifiedLoad

DISK_BYTES = 2 << 20
SETTINGS = LoadSettings(block_bytes=512, max_blocks=8, depth=8, seed=7)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(DISK_BYTES)
    return path


def open_disk(image: Path, *options: str, num_queues: int = 1) -> Frontend:
    command = engine_command(f"--blk-file={image}", "--direct=off", "--workers=2", *options)
    return Frontend(command, num_queues=num_queues, request_timeout_s=30)


@pytest.fixture
def disk(image: Path) -> Iterator[Frontend]:
    with open_disk(image, "--num-queues=2", num_queues=2) as frontend:
        yield frontend


def run_load(load: VerifiedLoad, request_count: int) -> None:
    while load.request_count < request_count:
        load.step()
    load.drain()


def test_a_sound_disk_has_no_faults(disk: Frontend) -> None:
    load = VerifiedLoad(disk, SETTINGS)
    run_load(load, 3000)
    checked: list[int] = []
    load.verify_all(checked.append)
    assert load.faults == []
    assert load.fault_count == 0
    assert checked == [1 << 20, 2 << 20]
    for request_type, result in load.results.items():
        moves_data = request_type in (RequestType.IN, RequestType.OUT)
        assert (result.latencies.count > 0) == (request_type is not RequestType.GET_ID)
        assert (result.data_bytes > 0) == moves_data


def test_it_goes_on_after_a_reconnect_that_has_taken_completions_in(disk: Frontend) -> None:
    load = VerifiedLoad(disk, SETTINGS)
    for _ in range(5):
        load.step()
        disk.reconnect()  # the old engine finishes what is in flight; what came back waits to be polled
    run_load(load, 500)
    assert load.fault_count == 0


def test_a_changed_byte_is_found(disk: Frontend, image: Path) -> None:
    load = VerifiedLoad(disk, SETTINGS)
    run_load(load, 500)
    with image.open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)
        file.seek(1000)
        file.write(bytes([byte[0] ^ 1]))
    load.verify_all()
    assert load.fault_count == 1
    assert load.faults[0].startswith("block 1 (at 512)")


def test_a_lost_image_is_found_by_the_load_itself(disk: Frontend, image: Path) -> None:
    load = VerifiedLoad(disk, SETTINGS)
    run_load(load, 2000)
    with image.open("r+b") as file:
        file.write(bytes(DISK_BYTES))
    run_load(load, 4000)
    assert load.fault_count > 0
    assert len(load.faults) <= 20


def test_a_failed_request_is_a_fault(image: Path) -> None:
    with open_disk(image) as disk:
        load = VerifiedLoad(disk, SETTINGS)
        run_load(load, 200)
        assert load.fault_count == 0
        with image.open("r+b") as file:
            file.truncate(0)  # reads past the end fail
        run_load(load, 400)
        assert "IN of range(" in "".join(load.faults)


def test_what_the_disk_does_not_offer_is_not_asked_for(image: Path) -> None:
    with open_disk(image, "--cache=unsafe") as disk:
        load = VerifiedLoad(disk, SETTINGS)
        run_load(load, 500)
        load.verify_all()
        assert load.fault_count == 0
        assert load.results[RequestType.FLUSH].latencies.count == 0


def test_a_disk_that_does_not_suit_is_refused(disk: Frontend, image: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too small"):
        VerifiedLoad(disk, LoadSettings(block_bytes=4096, depth=64))
    second = tmp_path / "second.img"
    shutil.copyfile(image, second)
    with open_disk(second, "--read-only") as other, pytest.raises(ValueError, match="read-only"):
        VerifiedLoad(other, SETTINGS)


def test_it_goes_on_after_a_reconnect_whatever_had_come_back(image: Path) -> None:
    with open_disk(image, "--num-queues=2", num_queues=2) as disk:
        load = VerifiedLoad(disk, SETTINGS)
        for _ in range(3):
            while load.request_count < 200:
                load.step()
            load.step()
            for queue in disk.queues:  # all that was sent has come back, and nobody has taken it in
                queue.kick()
                while queue.virtqueue.used_idx != queue.virtqueue.next_avail:
                    os.sched_yield()
            disk.reconnect()
            load.step()
        load.drain()
        load.verify_all()
        assert load.faults == []
