"""Guest memory that a front end takes away while it is in use: its session ends, the engine serves the next.

Fault model: the front end truncates the file of a region, or of the in-flight region, at any time after it
was mapped; whatever of it is touched then is gone. What a request had to do with lost memory fails; the image
keeps every byte that no such request was to write.
"""

import contextlib
import fcntl
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringblk.engine.frontend.request import BackendRefused
from ringblk.shm.memory.region import MemoryRegion
from ringblk.shm.platform.form import LINUX
from tests.rigs.engine_rig import Engine, EngineWithWorkers, RawFrontend, RawQueue, eventually, raw_frontend
from tests.rigs.inline_device import GPA, IN, IOERR, OK, OUT, UVA_OFFSET

PAGE = 4096
DISK_BYTES = 1 << 20
DATA_GPA = 0x100000000  # where the memory that is taken away lies
DATA_BYTES = 16 * PAGE
CONTENT = b"the guest's" * (DISK_BYTES // 11) + b"end" + bytes(DISK_BYTES % 11)
F_SEAL_FUTURE_WRITE = 0x10  # fcntl(2)
LOST = "cannot be reached any more"
"""Of the line that says what was lost."""
BACKENDS = ["memory", "python", "psync", "sync", "io_uring", "bounced"]


class Victim:
    """An engine, a front end with memory of two files, and a queue whose rings lie in the first."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.children = engine.children()
        self.log_length = len(engine.log())
        self.frontend = RawFrontend(engine)
        self.frontend.negotiate()
        self.frontend.add_memory()
        self.fd = os.memfd_create("guest-ram", os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, DATA_BYTES)
        self.region = MemoryRegion(DATA_GPA, DATA_BYTES, DATA_GPA + UVA_OFFSET, 0)
        self.frontend.connection.add_region(self.region, self.fd)
        self.frontend.start_queue(0)
        self.queue: RawQueue = self.frontend.queues[0]

    def offer(self, request_type: int, data_bytes: int, *, status_gpa: int | None = None) -> int:
        """Offer a request at sector 8 with its data in the second file; where its status byte is."""
        driver = self.queue.driver
        driver.forget_places()
        header = driver.place(request_type.to_bytes(8, "little") + (8).to_bytes(8, "little"))
        status = driver.place(b"\xff") if status_gpa is None else status_gpa
        data = (DATA_GPA + PAGE - 512, data_bytes, request_type == IN)
        pieces = [(header, 16, False), data, (status, 1, True)]
        driver.offer(driver.make_chain([piece for piece in pieces if piece[1]]))
        self.queue.kick()
        return status

    def wait_for_end(self, lost: str) -> None:
        """The session ends with a line that names what was lost; no process has died of it."""
        assert self.frontend.connection.socket.recv(1) == b""
        lines = [line for line in self.engine.log()[self.log_length :].splitlines() if LOST in line]
        assert len(lines) == 1, lines
        assert f"the vhost-user session ends: {lost} {LOST}" in lines[0]
        assert self.engine.children() == self.children

    def close(self) -> None:
        self.frontend.close()
        os.close(self.fd)


def check_service(engine: Engine) -> None:
    """The next front end is served, and the image holds what it held."""
    with raw_frontend(engine) as frontend:
        for sector in (0, 8, 64):
            expected = CONTENT[sector * 512 : sector * 512 + 8192]
            assert frontend.queues[0].request(IN, sector, read_bytes=8192) == (OK, expected)


def fill(engine: Engine) -> None:
    with raw_frontend(engine) as frontend:
        for start in range(0, DISK_BYTES, 65536):
            data = CONTENT[start : start + 65536]
            assert frontend.queues[0].request(OUT, start // 512, data=data)[0] == OK


def options(kind: str, folder: Path) -> list[str]:
    image = folder / "image"
    image.write_bytes(bytes(DISK_BYTES))
    match kind:
        case "memory":
            return ["--backend=memory", f"--backend-arg=size_bytes={DISK_BYTES}", "--io-engine=psync"]
        case "python":
            return ["--backend=ram_disk:RamDisk", f"--backend-arg=size_bytes={DISK_BYTES}"]
        case "bounced":  # data that are not aligned go through a buffer of the worker's own
            return [f"--blk-file={image}", "--io-engine=psync", "--direct=auto"]
        case _:
            return [f"--blk-file={image}", f"--io-engine={kind}", "--direct=off"]


@pytest.fixture(scope="module", params=BACKENDS)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with (
        tempfile.TemporaryDirectory() as folder,
        EngineWithWorkers(*options(request.param, Path(folder)), "--workers=2") as engine,
    ):
        fill(engine)
        yield engine


def has_no_more_fds(engine: Engine, before: dict[int, int]) -> bool:
    now = engine.open_fds()
    return now.keys() == before.keys() and all(now[pid] <= before[pid] for pid in now)


def data_region() -> str:
    return f"the memory region at {DATA_GPA:#x} of {DATA_BYTES} bytes"


@pytest.mark.parametrize("keeps_bytes", [0, PAGE, 2 * PAGE])
@pytest.mark.parametrize("request_type", [IN, OUT])
def test_data_that_are_gone(engine: Engine, request_type: int, keeps_bytes: int) -> None:
    """A bad message from the front end, about its memory: a line, the session ends, the socket listens."""
    engine.say_hello()
    before = engine.open_fds()
    victim = Victim(engine)
    os.ftruncate(victim.fd, keeps_bytes)
    status = victim.offer(request_type, 4 * PAGE)
    victim.wait_for_end(data_region())
    assert victim.queue.driver.read(status, 1) == bytes([IOERR])
    victim.close()
    if request_type == OUT:  # it has failed, so what it was to write may be anything; that is written again
        fill(engine)
    check_service(engine)
    engine.say_hello()
    eventually(lambda: has_no_more_fds(engine, before), "as many descriptors as before")


def test_a_status_byte_that_is_gone(engine: Engine) -> None:
    victim = Victim(engine)
    os.ftruncate(victim.fd, 0)
    victim.offer(IN, 0, status_gpa=DATA_GPA + 5)
    victim.wait_for_end(data_region())
    victim.close()
    check_service(engine)


def test_rings_that_are_gone(engine: Engine) -> None:
    victim = Victim(engine)
    os.ftruncate(victim.frontend.ram.fd, 0)
    victim.queue.kick()
    victim.wait_for_end(f"the memory region at {GPA:#x} of {1 << 20} bytes")
    assert "queue 0 is broken" not in engine.log()
    victim.close()
    check_service(engine)


@pytest.mark.parametrize("role", ["worker", "dispatcher"])
def test_memory_that_a_successor_cannot_map(tmp_path: Path, role: str) -> None:
    """A process dies, and its successor may not map the memory to write: no reason to give up."""
    with EngineWithWorkers(*options("memory", tmp_path), "--workers=1") as engine:
        fill(engine)
        victim = Victim(engine)
        fcntl.fcntl(victim.fd, fcntl.F_ADD_SEALS, F_SEAL_FUTURE_WRITE)
        (pid,) = [pid for pid in victim.children if role in Path(f"/proc/{pid}/comm").read_text()]
        os.kill(pid, signal.SIGKILL)
        victim.offer(IN, PAGE)
        assert victim.frontend.connection.socket.recv(1) == b""
        assert data_region() in engine.log()
        victim.close()
        check_service(engine)


def test_an_in_flight_region_that_is_gone(tmp_path: Path) -> None:
    with EngineWithWorkers(*options("memory", tmp_path), "--workers=1") as engine:
        fill(engine)
        frontend = RawFrontend(engine)
        frontend.negotiate()
        frontend.add_memory()
        description, sealed_fd = frontend.connection.get_inflight(1, 16)
        if LINUX:  # elsewhere there are no seals; what is cut off is noticed
            with pytest.raises(PermissionError):
                os.ftruncate(sealed_fd, 0)
        fd = os.memfd_create("in flight")
        os.ftruncate(fd, description.mmap_size_bytes)
        frontend.connection.set_inflight(description, fd)
        frontend.start_queue(0)
        children = engine.children()
        os.ftruncate(fd, 0)
        frontend.queues[0].offer(IN, read_bytes=512)
        assert frontend.connection.socket.recv(1) == b""
        assert f"the in-flight region {LOST}" in engine.log()
        assert engine.children() == children
        frontend.close()
        check_service(engine)
        os.close(fd)
        os.close(sealed_fd)


def test_regions_that_do_not_fit_together(engine: Engine) -> None:
    """Each can be mapped, not all together: the second is refused, nobody dies, the next is served."""
    children = engine.children()
    with raw_frontend(engine) as frontend, contextlib.ExitStack() as cleanup:
        for number, size_bytes in enumerate((1 << 44, 1 << 45), 1):
            fd = os.memfd_create("huge")
            cleanup.callback(os.close, fd)
            os.ftruncate(fd, size_bytes)
            region = MemoryRegion(number << 50, size_bytes, number << 52, 0)
            with contextlib.nullcontext() if number == 1 else pytest.raises(BackendRefused):
                frontend.connection.add_region(region, fd)
        assert frontend.queues[0].request(IN, read_bytes=512)[0] == OK
    assert "TiB together" in engine.log()
    with raw_frontend(engine) as frontend:
        assert frontend.queues[0].request(IN, read_bytes=512)[0] == OK
    assert engine.children() == children
