"""Chains of more descriptors than a slot has room for: few are in flight at once, and none waits for ever.

Fault model: drivers that send one after the other, processes that hang and die while some wait.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from ringblk.shm.state.reader import read_queue
from ringblk.shm.state.segment import MAX_LONG_CHAINS, StateSegment
from tests.rigs.control_client import ControlClient
from tests.rigs.engine_rig import (
    Engine,
    EngineWithWorkers,
    RawFrontend,
    RawQueue,
    eventually,
    raw_frontend,
)
from tests.rigs.inline_device import GPA, IN, OK, UNSUPP
from tests.rigs.mock_driver import MockDriver
from tests.rigs.process_tree import has_ended

DISK_BYTES = 1 << 20
QUEUE_SIZE = 64
DATA_PIECES = 512
PIECE_BYTES = 8
PLACES_BYTES = 1 << 20
"""Of guest memory, for the requests of one queue."""
REQUESTS = MAX_LONG_CHAINS + 12
CONTENT = os.urandom(DISK_BYTES)


def long_read(driver: MockDriver, sector: int, head: int, pieces: int = DATA_PIECES) -> int:
    """Write a read in many pieces, in a table that descriptor `head` refers to; where its data begin."""
    header = driver.place(IN.to_bytes(8, "little") + sector.to_bytes(8, "little"))
    data_gpa = driver.place(b"\xff" * (pieces * PIECE_BYTES + 1))
    chain = [(data_gpa + index * PIECE_BYTES, PIECE_BYTES, True) for index in range(pieces)]
    chain = [(header, 16, False), *chain, (data_gpa + pieces * PIECE_BYTES, 1, True)]
    driver.make_chain(chain, indirect=True, indices=[head])
    return data_gpa


def is_done(driver: MockDriver, data_gpa: int, sector: int) -> bool:
    size_bytes = DATA_PIECES * PIECE_BYTES
    return driver.read(data_gpa, size_bytes + 1) == CONTENT[sector * 512 :][:size_bytes] + bytes([OK])


class LongReads:
    """Many of them, offered in one queue."""

    def __init__(self, queue: RawQueue, count: int = REQUESTS) -> None:
        self.queue = queue
        self.count = count
        self.data_gpas = [long_read(queue.driver, head, head) for head in range(count)]
        queue.driver.offer(*range(count))
        queue.kick()

    def wait(self) -> None:
        used = self.queue.wait_used(self.count)
        size_bytes = DATA_PIECES * PIECE_BYTES
        assert sorted(used) == [(head, size_bytes + 1) for head in range(self.count)]
        for sector, data_gpa in enumerate(self.data_gpas):
            assert is_done(self.queue.driver, data_gpa, sector)


def make_room(frontend: RawFrontend) -> None:
    """Give each queue its own place for requests."""
    for number, queue in enumerate(frontend.queues):
        queue.driver.places_gpa = queue.driver.next_place = GPA + (number + 1) * PLACES_BYTES


def options(folder: Path, *more: str) -> list[str]:
    image = folder / "image"
    image.write_bytes(CONTENT)
    # Not through a ring: what is under way there goes on while processes are stopped.
    return [f"--blk-file={image}", "--direct=off", "--io-engine=psync", "--workers=2", *more]


@contextlib.contextmanager
def stopped_workers(engine: Engine) -> Iterator[None]:
    pids = [pid for pid in engine.children() if "worker" in Path(f"/proc/{pid}/comm").read_text()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # it has ended with its engine
                os.kill(pid, signal.SIGCONT)


def dispatcher_of(engine: Engine) -> int | None:
    for pid in engine.children():
        with contextlib.suppress(OSError):
            if "dispatcher" in Path(f"/proc/{pid}/comm").read_text():
                return pid
    return None


def replace_dispatcher(engine: Engine) -> None:
    dispatcher = dispatcher_of(engine)
    assert dispatcher is not None
    os.kill(dispatcher, signal.SIGKILL)
    eventually(lambda: dispatcher_of(engine) not in (None, dispatcher), "another dispatcher")


def test_a_chain_longer_than_the_queue_is_served(tmp_path: Path) -> None:
    with EngineWithWorkers(*options(tmp_path)) as engine, raw_frontend(engine, ram_bytes=4 << 20) as frontend:
        make_room(frontend)
        LongReads(frontend.queues[0], 1).wait()


def test_what_waits_for_room_holds_up_its_own_queue_only(tmp_path: Path) -> None:
    """Also while dispatchers die."""
    engine_options = options(tmp_path, "--num-queues=2", f"--queue-size={QUEUE_SIZE}")
    with (
        EngineWithWorkers(*engine_options) as engine,
        raw_frontend(engine, num_queues=2, queue_size=QUEUE_SIZE, ram_bytes=4 << 20) as frontend,
    ):
        make_room(frontend)
        state = StateSegment.attach(engine.segment_name)
        first, second = frontend.queues
        with stopped_workers(engine):
            reads = LongReads(first)
            eventually(lambda: read_queue(state, 0)[4] == MAX_LONG_CHAINS, "as many as there is room for")
            for _ in range(3):
                assert second.request(99, read_bytes=8)[0] == UNSUPP
                replace_dispatcher(engine)
            assert read_queue(state, 0)[4] == MAX_LONG_CHAINS
            second.driver.forget_places()
            others = LongReads(second, 3)
        reads.wait()
        others.wait()
        assert second.request(99, read_bytes=8)[0] == UNSUPP
        LongReads(first, 1).wait()
        state.close()


def test_workers_and_dispatchers_die_under_long_chains(tmp_path: Path) -> None:
    with (
        EngineWithWorkers(*options(tmp_path, f"--queue-size={QUEUE_SIZE}")) as engine,
        raw_frontend(engine, queue_size=QUEUE_SIZE, ram_bytes=4 << 20) as frontend,
    ):
        make_room(frontend)
        for number in range(12):
            frontend.queues[0].driver.forget_places()
            reads = LongReads(frontend.queues[0])
            if number % 2:
                replace_dispatcher(engine)
            else:
                worker = next(pid for pid in engine.children() if pid != dispatcher_of(engine))
                os.kill(worker, signal.SIGKILL)
            reads.wait()


def test_an_engine_takes_over_more_long_chains_than_it_has_room_for(tmp_path: Path) -> None:
    """The one before it had more room in its slots. What it cannot take in yet stays in flight."""
    with EngineWithWorkers(*options(tmp_path, "--queue-size=2048")) as engine:
        frontend = RawFrontend(engine, queue_size=QUEUE_SIZE, ram_bytes=4 << 20)
        make_room(frontend)
        frontend.negotiate()
        frontend.add_memory()
        description, fd = frontend.connection.get_inflight(1, QUEUE_SIZE)
        frontend.connection.set_inflight(description, fd)
        frontend.start_queue(0)
        state = StateSegment.attach(engine.segment_name)
        with stopped_workers(engine):
            reads = LongReads(frontend.queues[0])
            eventually(lambda: read_queue(state, 0)[4] == REQUESTS, "all in flight")
            children = engine.children()
            engine.process.kill()
            engine.process.wait()
            # The zygote ends before they do: no worker is to go on while it still can.
            eventually(lambda: all(map(has_ended, children)), "the children's end")
        state.close()
    with EngineWithWorkers(*options(tmp_path, f"--queue-size={QUEUE_SIZE}")) as engine:
        frontend.connection.close()
        frontend.connect(engine)
        frontend.negotiate()
        frontend.add_memory()
        frontend.connection.set_inflight(description, fd)
        frontend.start_queue(0)
        reads.wait()
        assert f"goes on with {REQUESTS} requests of an earlier engine" in engine.log()
        frontend.close()
    os.close(fd)


def test_long_chains_that_wait_for_tokens_go_back_with_their_room(tmp_path: Path) -> None:
    """However often their queue stops, the drive pauses or dispatchers die; other queues have room then."""
    control = ControlClient(tmp_path / "control")
    more = [f"--queue-size={QUEUE_SIZE}", "--num-queues=2", f"--control={control.socket_path}"]
    with (
        EngineWithWorkers(*options(tmp_path, *more, "--bps-read=5000", "--burst=1")) as engine,
        raw_frontend(engine, num_queues=2, queue_size=QUEUE_SIZE, ram_bytes=4 << 20) as frontend,
    ):
        make_room(frontend)
        state = StateSegment.attach(engine.segment_name)
        first, second = frontend.queues
        first.offer(IN, read_bytes=DISK_BYTES, head=60)  # minutes' worth: what follows waits
        first.wait_used(1)
        first.driver.forget_places()
        reads = LongReads(first)
        for number in range(4):
            eventually(lambda: read_queue(state, 0)[4] == 1 + MAX_LONG_CHAINS, "popped")
            if number == 2:
                replace_dispatcher(engine)
            elif number == 3:
                control.post("/pause")
                control.post("/resume")
            else:
                assert frontend.connection.get_vring_base(0) == first.driver.used_idx == 1
                assert read_queue(state, 0)[4] == 1
                frontend.start_queue(0)
        control.change("/drive", bps_read=0)
        reads.wait()
        LongReads(second).wait()
        state.close()
