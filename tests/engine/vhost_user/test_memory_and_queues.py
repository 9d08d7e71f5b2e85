"""Memory regions and queues that come and go while requests are in flight, in a whole engine."""

import os
import threading
from pathlib import Path

import pytest

from ringblk import BackendRefused
from ringblk.engine.vhost_user.codes import FrontendRequest, ProtocolFeature
from ringblk.engine.vhost_user.messages import VringState, encode_message, encode_vring_state
from ringblk.shm.memory.region import MemoryRegion
from tests.rigs.control_client import ControlClient, kill_and_reap, stop_process
from tests.rigs.engine_rig import EngineWithWorkers, Gate, RawFrontend, eventually, raw_frontend
from tests.rigs.inline_device import FLUSH, GPA, IN, OK, OUT, UVA_OFFSET

PAGE = 4096
GET_VRING_BASE_OF_QUEUE_0 = encode_message(
    FrontendRequest.GET_VRING_BASE, encode_vring_state(VringState(0, 0))
)
SIZE = 1 << 20
CUTS = [0x10000 + index * PAGE for index in range(31)]  # with the rest before and after: 32 regions


def read_into(frontend: RawFrontend, gpa: int, size_bytes: int, head: int = 4) -> None:
    """Offer a read whose data goes to `gpa`."""
    queue = frontend.queues[0]
    driver = queue.driver
    header = driver.place(IN.to_bytes(16, "little"))
    status = driver.place(b"\xff")
    pieces = [(header, 16, False), (gpa, size_bytes, True), (status, 1, True)]
    driver.offer(driver.make_chain(pieces, indices=range(head, head + 3)))
    queue.kick()


class Remover:
    """Removes regions, which waits for the requests that use them."""

    def __init__(self, frontend: RawFrontend, regions: list[MemoryRegion]) -> None:
        self._frontend = frontend
        self._regions = regions
        self._used_idx = -1
        self._thread = threading.Thread(target=self._remove)
        self._thread.start()

    def _remove(self) -> None:
        for region in self._regions:
            self._frontend.connection.remove_region(region)
            if self._used_idx < 0:
                self._used_idx = self._frontend.queues[0].driver.used_idx

    def used_idx(self) -> int:
        """Where the used ring was when the first was removed."""
        self._thread.join()
        return self._used_idx


def test_32_regions_come_and_go_while_requests_are_in_flight(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with (
        EngineWithWorkers(*gate.options(), "--workers=2") as engine,
        RawFrontend(engine, cuts=CUTS) as frontend,
    ):
        connection, ram = frontend.connection, frontend.ram
        assert len(ram.regions) == 32
        frontend.set_up()
        queue = frontend.queues[0]
        content = os.urandom(8 * PAGE)
        ram.view[0x80000 : 0x80000 + len(content)] = content
        driver = queue.driver
        header = driver.place(OUT.to_bytes(16, "little"))
        status = driver.place(b"\xff")
        driver.offer(
            driver.make_chain([(header, 16, False), (GPA + 0x80000, 8 * PAGE, False), (status, 1, True)])
        )
        queue.kick()
        queue.wait_used(1)
        eventually(lambda: len({*engine.mappings().values()} - {0}) == 1, "all have read their messages")
        before = engine.mappings()
        for round_number in range(4):
            target = 0x10000 + (3 * round_number + 1) * PAGE - 100
            start, end = GPA + target, GPA + target + 3 * PAGE
            begun_count = gate.begun_count
            read_into(frontend, start, 3 * PAGE)
            gate.wait_for_requests(begun_count + 1)  # it is resolved: now its memory may go
            ours = [region for region in ram.regions[1:-1] if region.gpa < end and start < region.gpa + PAGE]
            assert len(ours) == 4
            remover = Remover(frontend, ours)
            gate.open()
            queue.wait_used(1)
            assert remover.used_idx() == driver.used_idx  # not before the request was done
            assert ram.view[target : target + 3 * PAGE] == content[: 3 * PAGE]
            for region in ram.regions[1:-1]:
                if region not in ours:
                    connection.remove_region(region)
            assert queue.request(OUT, 2000, data=bytes(512))[0] == OK
            for region in ram.regions[1:-1]:
                connection.add_region(region, ram.fd)
        assert queue.driver.used_idx == 9
        eventually(lambda: engine.mappings() == before, "as many mappings as before")


def test_a_region_that_no_request_uses_goes_at_once(tmp_path: Path) -> None:
    """Also while older requests, which lie elsewhere, are in flight."""
    gate = Gate(tmp_path)
    with EngineWithWorkers(*gate.options(), "--workers=1") as engine, raw_frontend(engine) as frontend:
        other = MemoryRegion(1 << 40, SIZE, 1 << 40, 0)
        frontend.connection.add_region(other, frontend.ram.fd)
        frontend.queues[0].offer(FLUSH)
        gate.wait_for_requests(1)
        before = engine.mappings()
        frontend.connection.remove_region(other)
        assert engine.mappings() != before  # the dispatcher's, at least: the worker reads its messages later
        assert frontend.queues[0].driver.used() == []
        gate.open()
        frontend.queues[0].wait_used(1)


@pytest.mark.parametrize("dies", [False, True])
def test_a_region_does_not_wait_for_tokens(tmp_path: Path, dies: bool) -> None:
    """Nor where the dispatcher that it is asked of dies, and another throttles what waits anew."""
    control = ControlClient(tmp_path / "control")
    disk = ["--backend=memory", f"--backend-arg=size_bytes={SIZE}", "--bps=1000", "--burst=1"]
    with (
        EngineWithWorkers(*disk, f"--control={control.socket_path}") as engine,
        raw_frontend(engine, ram_bytes=2 * SIZE) as frontend,
    ):
        other = MemoryRegion(1 << 40, SIZE, 1 << 40, SIZE)
        frontend.connection.add_region(other, frontend.ram.fd)
        for head in (0, 3, 6, 9):
            read_into(frontend, other.gpa, 4096 if head else 0x10000, head)  # the first is a minute's worth
        eventually(lambda: control.get("/stats")["queues"][0]["popped_count"] == 4, "all popped")
        dispatcher = control.processes["dispatcher"]
        if dies:
            stop_process(dispatcher)
        remover = Remover(frontend, [other])
        if dies:
            kill_and_reap(dispatcher)
        assert remover.used_idx() == 4
        frontend.queues[0].wait_used(4)


def test_the_memory_table_is_replaced_under_running_rings(tmp_path: Path) -> None:
    """QEMU sends SET_MEM_TABLE at any time; rings and requests in flight go on."""
    gate = Gate(tmp_path)
    with EngineWithWorkers(*gate.options(), "--workers=1") as engine, raw_frontend(engine) as frontend:
        connection, ram = frontend.connection, frontend.ram
        queue, children = frontend.queues[0], engine.children()
        for round_number in range(6):
            read_into(frontend, GPA + 0x20000, 2 * PAGE)
            cut = 0x20800 + round_number * 512
            table = [
                (MemoryRegion(GPA, cut, GPA + UVA_OFFSET, 0), ram.fd),
                (MemoryRegion(GPA + cut, SIZE - cut, GPA + cut + UVA_OFFSET, cut), ram.fd),
            ]
            connection.set_mem_table(table)
            gate.open()
            queue.wait_used(1)
            assert ram.view[0x20000 : 0x20000 + 2 * PAGE] == bytes(2 * PAGE)
            ram.view[0x20000 : 0x20000 + 2 * PAGE] = b"\xcc" * (2 * PAGE)
            for _ in range(3):  # by now the former mappings are gone
                assert queue.request(OUT, 100, data=bytes(512))[0] == OK
        assert engine.children() == children
        eventually(
            lambda: all(count == 2 for pid, count in engine.mappings().items() if pid != engine.process.pid),
            "two mappings each",
        )


def test_memory_of_a_running_ring_cannot_be_taken_away(tmp_path: Path) -> None:
    with (
        EngineWithWorkers("--backend=memory", f"--backend-arg=size_bytes={SIZE}") as engine,
        raw_frontend(engine) as frontend,
    ):
        children = engine.children()
        with pytest.raises(BackendRefused):
            frontend.connection.remove_region(frontend.ram.regions[0])
        with pytest.raises(BackendRefused):
            frontend.connection.set_mem_table([(MemoryRegion(0, PAGE, 0, 0), frontend.ram.fd)])
        assert frontend.queues[0].request(OUT, data=bytes(512))[0] == OK
        frontend.connection.get_vring_base(0)
        frontend.connection.remove_region(frontend.ram.regions[0])
        assert engine.children() == children
        assert "queue 0 is running on memory that would go away" in engine.log()


def test_memory_that_cannot_be_mapped_is_refused(tmp_path: Path) -> None:
    """An fd opened for reading only: the workers must not die of it."""
    path = tmp_path / "memory"
    path.write_bytes(bytes(SIZE))
    with (
        EngineWithWorkers("--backend=memory", f"--backend-arg=size_bytes={SIZE}") as engine,
        raw_frontend(engine) as frontend,
    ):
        children = engine.children()
        fd = os.open(path, os.O_RDONLY)
        with pytest.raises(BackendRefused):
            frontend.connection.add_region(MemoryRegion(1 << 40, SIZE, 1 << 40, 0), fd)
        with pytest.raises(BackendRefused):
            frontend.connection.add_region(MemoryRegion(1 << 40, SIZE, 1 << 40, PAGE), frontend.ram.fd)
        os.close(fd)
        assert frontend.queues[0].request(IN, read_bytes=512) == (OK, bytes(512))
        assert engine.children() == children


@pytest.mark.parametrize("io_engine", ["psync", "sync"])
@pytest.mark.parametrize("start_idx", [0, 0xFFFE])
def test_a_queue_stops_and_starts_where_it_was(io_engine: str, start_idx: int) -> None:
    options = [
        "--backend=memory",
        f"--backend-arg=size_bytes={SIZE}",
        "--num-queues=2",
        f"--io-engine={io_engine}",
    ]
    with (
        EngineWithWorkers(*options) as engine,
        raw_frontend(engine, num_queues=2, start_idx=start_idx) as frontend,
    ):
        expected = start_idx
        for _ in range(4):
            for _ in range(3):
                assert frontend.queues[0].request(IN, read_bytes=512) == (OK, bytes(512))
                expected = (expected + 1) & 0xFFFF
                assert frontend.queues[0].driver.used_idx == expected
            assert frontend.connection.get_vring_base(0) == expected
            frontend.queues[0].driver.forget_places()
            frontend.queues[0].offer(IN, read_bytes=512)  # rests until the queue runs again
            assert frontend.queues[1].request(IN, read_bytes=512) == (OK, bytes(512))
            assert frontend.queues[0].driver.used() == []
            frontend.start_queue(0)
            frontend.queues[0].wait_used(1)
            expected = (expected + 1) & 0xFFFF


def test_stopping_a_queue_waits_for_what_is_in_flight(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with EngineWithWorkers(*gate.options(), "--workers=2") as engine, raw_frontend(engine) as frontend:
        queue = frontend.queues[0]
        for round_number in range(1, 5):
            queue.offer(FLUSH)
            gate.wait_for_requests(round_number)
            stopper = Stopper(frontend)
            gate.open()
            assert stopper.base_and_used_idx() == (round_number, round_number)
            queue.wait_used(1)
            frontend.start_queue(0)


class Stopper:
    """Stops queue 0, which waits for its requests."""

    def __init__(self, frontend: RawFrontend) -> None:
        self._frontend = frontend
        self._found = (-1, -1)
        self._thread = threading.Thread(target=self._stop)
        self._thread.start()

    def _stop(self) -> None:
        base = self._frontend.connection.get_vring_base(0)
        self._found = (base, self._frontend.queues[0].driver.used_idx)

    def base_and_used_idx(self) -> tuple[int, int]:
        self._thread.join()
        return self._found


def test_a_front_end_that_leaves_while_its_queue_is_stopping(tmp_path: Path) -> None:
    """The request for the base is given up, the queue is drained, and the next front end is served."""
    gate = Gate(tmp_path)
    with EngineWithWorkers(*gate.options(), "--workers=1") as engine:
        children = engine.children()
        for round_number in range(1, 4):
            with raw_frontend(engine) as frontend:
                frontend.queues[0].offer(FLUSH)
                gate.wait_for_requests(round_number)
                frontend.connection._send(GET_VRING_BASE_OF_QUEUE_0, ())
            gate.open()
        with raw_frontend(engine) as frontend:
            assert frontend.queues[0].request(OUT, data=bytes(512))[0] == OK
        assert engine.children() == children


def test_a_front_end_that_leaves_at_once_after_enabling_a_queue() -> None:
    """Whether or not the queue was started by then, its memory is not used after it is gone."""
    with EngineWithWorkers("--backend=memory", f"--backend-arg=size_bytes={SIZE}") as engine:
        children = engine.children()
        for _ in range(30):
            with RawFrontend(engine) as frontend:
                frontend.negotiate()
                frontend.add_memory()
                frontend.connection.protocol_features = ProtocolFeature(0)  # wait for no reply from here on
                frontend.start_queue(0)
        with raw_frontend(engine) as frontend:
            assert frontend.queues[0].request(OUT, data=bytes(512))[0] == OK
        assert engine.children() == children
