"""One drive's trouble is its own: the drive beside it keeps its data, its session and its processes.

Fault model: a hostile guest, a hostile front end, memory that is taken away, storage that fails or hangs, a
dispatcher that is killed again and again, all while another drive of the engine is read and written.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.rigs.control_client import kill_and_reap
from tests.rigs.engine_rig import Gate, RawFrontend, eventually
from tests.rigs.inline_device import IN, IOERR, OK, OUT
from tests.rigs.many_drives import DISK_BYTES, ManyDrives

CHUNK_BYTES = 4096
CHUNKS = DISK_BYTES // CHUNK_BYTES
BAD, GOOD = "bad", "good"


class Load(threading.Thread):
    """Writes and reads a drive over one session, and checks all that it reads."""

    def __init__(self, engine: ManyDrives) -> None:
        super().__init__()
        self._disk = engine.frontend(GOOD)
        self._is_over = threading.Event()
        self.round_count = 0
        self.faults: list[str] = []

    def run(self) -> None:
        try:
            while not self._is_over.is_set():
                self._write_and_read(self.round_count.to_bytes(8, "little") * (CHUNK_BYTES // 8))
                self.round_count += 1
        except Exception as error:
            self.faults.append(repr(error))

    def _write_and_read(self, data: bytes) -> None:
        offset = self.round_count % CHUNKS * CHUNK_BYTES
        self._disk.write(offset, data)
        if self._disk.read(offset, CHUNK_BYTES) != data:
            self.faults.append(f"round {self.round_count} reads what was not written")

    def go_on(self) -> None:
        """Return when some rounds more are done."""
        wanted = self.round_count + 3
        eventually(lambda: self.round_count >= wanted or self.faults, "the neighbour's requests")

    def end(self) -> None:
        self._is_over.set()
        self.join()
        self._disk.close()


@contextlib.contextmanager
def undisturbed(engine: ManyDrives) -> Iterator[Load]:
    """Whatever happens meanwhile, nothing of it happens to the good drive."""
    processes = engine.processes(GOOD)
    load = Load(engine)
    load.start()
    try:
        load.go_on()
        yield load
        load.go_on()
        assert engine.processes(GOOD) == processes
        assert engine.control.get("/drives/good")["state"]["is_connected"]
    finally:
        load.end()
    assert load.faults == []
    assert f"{GOOD}: the dispatcher" not in engine.log()
    assert f"{GOOD}: worker" not in engine.log()


def connect(engine: ManyDrives) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX)
    connected.connect(str(engine.socket_path(BAD)))
    return connected


@pytest.fixture(scope="module")
def shared_engine() -> Iterator[ManyDrives]:
    with ManyDrives({BAD: {"workers": 1}, GOOD: {"workers": 1}}) as engine:
        yield engine


def corrupt_ring(frontend: RawFrontend) -> None:
    driver = frontend.queues[0].driver
    driver.write_avail(driver.avail_idx, driver.queue_size)
    driver.avail_idx += 1


def offer_too_many(frontend: RawFrontend) -> None:
    driver = frontend.queues[0].driver
    driver.avail_idx += driver.queue_size + 1


def take_memory_away(frontend: RawFrontend) -> None:
    os.ftruncate(frontend.ram.fd, 0)


@pytest.mark.parametrize(
    ("attack", "line"),
    [
        (corrupt_ring, "bad: queue 0 is broken until it is reset"),
        (offer_too_many, "bad: queue 0 is broken until it is reset"),
        (take_memory_away, "cannot be reached any more"),
    ],
)
def test_a_hostile_guest(shared_engine: ManyDrives, attack: Callable[[RawFrontend], None], line: str) -> None:
    with undisturbed(shared_engine) as load:
        for _ in range(3):
            count = shared_engine.log().count(line)
            with RawFrontend(connect(shared_engine)) as frontend:
                frontend.set_up()
                assert frontend.queues[0].request(OUT, 7, data=b"7" * 512)[0] == OK
                attack(frontend)
                frontend.queues[0].kick()
                eventually(lambda count=count: shared_engine.log().count(line) > count, line)  # type: ignore[misc]
            load.go_on()


def test_a_front_end_that_sends_no_messages(shared_engine: ManyDrives) -> None:
    with undisturbed(shared_engine) as load:
        for data in (b"\0" * 12, b"\xff" * 4096, b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096)):
            suppressed = contextlib.suppress(BrokenPipeError, ConnectionResetError)
            with connect(shared_engine) as connected, suppressed:
                connected.sendall(data)
                connected.shutdown(socket.SHUT_WR)
                while connected.recv(4096):
                    pass
            load.go_on()


def test_a_dispatcher_that_is_killed_again_and_again(shared_engine: ManyDrives) -> None:
    with undisturbed(shared_engine) as load, shared_engine.frontend(BAD) as disk:
        for number in range(8):
            disk.write(0, bytes([number]) * 512)
            kill_and_reap(shared_engine.control.get("/drives/bad")["state"]["processes"]["dispatcher"])
            assert disk.read(0, 512) == bytes([number]) * 512
            load.go_on()


def test_storage_that_fails() -> None:
    failing = {"backend": "gated_disk:FailingDisk", "backend_arg": {"size_bytes": str(DISK_BYTES)}}
    with (
        ManyDrives({BAD: failing, GOOD: {"workers": 1}}) as engine,
        undisturbed(engine) as load,
        RawFrontend(connect(engine)) as frontend,
    ):
        frontend.set_up()
        for _ in range(5):
            assert frontend.queues[0].request(IN, DISK_BYTES // 512 - 1, read_bytes=512)[0] == IOERR
            load.go_on()


def test_storage_that_hangs_and_is_given_up(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    hanging = {
        "backend": "gated_disk:GatedDisk",
        "backend_arg": {"size_bytes": str(DISK_BYTES), "gate": str(gate.path)},
        "sandbox_allow": [str(tmp_path)],
    }
    with ManyDrives({BAD: hanging, GOOD: {"workers": 1}}) as engine, undisturbed(engine) as load:
        with engine.frontend(BAD) as disk:
            disk.submit_read(0, disk.allocate(512))
            disk.submit()
            gate.wait_for_requests(1)
            load.go_on()
            assert engine.delete(BAD, "?force=true")[0] == 204
            load.go_on()
        assert engine.put(BAD)[0] == 201
        with engine.frontend(BAD) as disk:
            disk.write(0, b"b" * 512)
