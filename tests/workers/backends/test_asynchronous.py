"""A backend with an asynchronous form: requests are pending, and done in whatever order it has."""

import os
import signal
import struct
from functools import partial
from pathlib import Path

import pytest

from ringblk.engine.frontend.frontend import Frontend
from ringblk.engine.load.verified_load import LoadSettings, VerifiedLoad
from tests.rigs.engine_rig import Engine, EngineWithWorkers, eventually, raw_frontend
from tests.rigs.inline_device import DISCARD, FLUSH, GET_ID, IN, IOERR, OK, OUT, WRITE_ZEROES, InlineDevice
from tests.rigs.late_disk import late_disk_folder, make_late_disk

DISK_BYTES = 2 << 20
FAILING_SECTOR = 64
STORAGE_WRITE, STORAGE_FLUSH, STORAGE_WRITE_ZEROES = 1, 2, 4


def segments(*parts: tuple[int, int, int]) -> bytes:
    return b"".join(struct.pack("<QII", *part) for part in parts)


def open_device(**options: object) -> InlineDevice:
    """A device whose loop carries requests out itself, as far as its backend lets anybody."""
    disk = make_late_disk(DISK_BYTES, **options)
    disk.start_dispatcher()
    assert disk.form.ready_fd >= 0
    return InlineDevice(disk, queue_size=256, ram_bytes=8 << 20, durable_writes=True)


def test_each_operation_is_pending_and_done() -> None:
    with open_device() as device:
        data = os.urandom(4096)
        assert device.request(OUT, 8, data=data, cuts=[16, 40, 1000]) == (OK, 1, b"")
        assert device.request(IN, 8, read_bytes=4096, cuts=[700, 2100])[::2] == (OK, data)
        assert device.request(FLUSH)[0] == OK
        assert device.request(GET_ID, read_bytes=20)[2].startswith(b"drive")
        zeroes = segments((9, 1, 0), (12, 2, 0))
        assert device.request(WRITE_ZEROES, data=zeroes) == (OK, 1, b"")
        assert device.request(DISCARD, data=segments((100, 8, 0), (200, 8, 0)))[0] == OK
        wanted = data[:512] + bytes(512) + data[1024:2048] + bytes(1024) + data[3072:]
        assert device.request(IN, 8, read_bytes=4096)[2] == wanted


def test_requests_are_done_in_another_order() -> None:
    with open_device() as device:
        driver = device.driver
        heads = []
        for sector in range(64):
            header = OUT.to_bytes(4, "little") + bytes(4) + sector.to_bytes(8, "little")
            written = header + bytes([sector]) * 512
            pieces = [(driver.place(written), len(written), False), (driver.place(b"\xff"), 1, True)]
            heads.append(driver.make_chain(pieces, indices=[2 * sector, 2 * sector + 1]))
        driver.offer(*heads)
        used = [head for head, _ in device.run()]
        assert sorted(used) == heads
        assert used != heads
        data = device.request(IN, 0, read_bytes=64 * 512)[2]
        assert data == b"".join(bytes([sector]) * 512 for sector in range(64))


def test_a_failure_is_the_request_s_alone() -> None:
    with open_device(failing_offset_bytes=FAILING_SECTOR * 512) as device:
        assert device.request(OUT, FAILING_SECTOR - 2, data=bytes(1024)) == (OK, 1, b"")
        assert device.request(OUT, FAILING_SECTOR - 2, data=bytes(1536)) == (IOERR, 1, b"")
        assert device.request(IN, FAILING_SECTOR, read_bytes=512)[:2] == (IOERR, 1)
        # The second of three parts.
        zeroes = segments((1, 1, 0), (FAILING_SECTOR, 1, 0), (3, 1, 0))
        assert device.request(WRITE_ZEROES, data=zeroes)[0] == IOERR
        assert device.request(IN, 0, read_bytes=512)[0] == OK


def test_what_the_form_does_not_take_is_done_by_the_blocking_one() -> None:
    with open_device(refused=(STORAGE_WRITE_ZEROES, STORAGE_FLUSH)) as device:
        assert device.request(OUT, 0, data=b"x" * 1024)[0] == OK
        assert device.request(WRITE_ZEROES, data=segments((1, 1, 0)))[0] == OK
        assert device.request(IN, 0, read_bytes=1024)[2] == b"x" * 512 + bytes(512)
        assert device.request(FLUSH)[0] == OK
    with open_device(refused=(STORAGE_WRITE,)) as device:  # it has none for that
        assert device.request(OUT, 0, data=bytes(512)) == (IOERR, 1, b"")


@pytest.fixture
def late_disks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options of an engine that serves one."""
    monkeypatch.setenv("PYTHONPATH", str(late_disk_folder()), prepend=os.pathsep)
    return ["--backend=late_disk:make", f"--backend-arg=size_bytes={DISK_BYTES}"]


@pytest.mark.parametrize("io_engine", ["psync", "sync"])
def test_an_engine_whose_form_has_no_room_at_first(late_disks: list[str], io_engine: str) -> None:
    """Nobody else comes and does it, and nothing is to wake anybody."""
    with (
        EngineWithWorkers(*late_disks, "--backend-arg=full_count=3", f"--io-engine={io_engine}") as engine,
        raw_frontend(engine) as frontend,
    ):
        assert frontend.queues[0].request(IN, read_bytes=512) == (OK, bytes(512))


def is_gone(engine: Engine, pid: int) -> bool:
    return pid not in engine.children()


@pytest.mark.parametrize("io_engine", ["psync", "sync"])
def test_an_engine_whose_processes_are_killed(late_disks: list[str], io_engine: str, tmp_path: Path) -> None:
    """Workers or the dispatcher wait for the disk with many requests under way, and die with them."""
    settings = LoadSettings(block_bytes=512, max_blocks=8, depth=16, seed=11)
    with (
        EngineWithWorkers(*late_disks, f"--io-engine={io_engine}", "--workers=2", "--num-queues=2") as engine,
        Frontend(str(engine.socket_path), num_queues=2, request_timeout_s=60) as disk,
    ):
        load = VerifiedLoad(disk, settings)
        for round_index in range(4):
            while load.request_count < (round_index + 1) * 300:
                load.step()
            victim = sorted(engine.children())[round_index % len(engine.children())]
            os.kill(victim, signal.SIGKILL)
            eventually(partial(is_gone, engine, victim), "the end of a process")
        load.drain()
        load.verify_all()
        assert load.faults == []
        assert engine.process.poll() is None
        assert "refuses" not in engine.log()
