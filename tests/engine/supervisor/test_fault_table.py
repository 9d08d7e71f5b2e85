"""The table of docs/faults.md, row by row, with whole engines."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringblk import BackendGone
from ringblk.shm.segments.shared_folder import shared_names
from tests.rigs.engine_rig import (
    Engine,
    EngineWithWorkers,
    Gate,
    RawFrontend,
    eventually,
    raw_frontend,
)
from tests.rigs.inline_device import FLUSH, GPA, IN, IOERR, OK, OUT, UNSUPP
from tests.rigs.mock_driver import DESC_F_NEXT, MockDriver
from tests.rigs.process_tree import has_ended

DISK_BYTES = 1 << 20
MEMORY = ("--backend=memory", f"--backend-arg=size_bytes={DISK_BYTES}", "--num-queues=2")
PSYNC_AND_SYNC = pytest.mark.parametrize("io_engine", ["psync", "sync"])


@PSYNC_AND_SYNC
def test_a_bad_request(io_engine: str) -> None:
    """A bad request: its status byte says UNSUPP or IOERR, the next request is served; no place: length 0."""
    with EngineWithWorkers(*MEMORY, f"--io-engine={io_engine}") as engine, raw_frontend(engine) as frontend:
        queue = frontend.queues[0]
        assert queue.request(99)[0] == UNSUPP
        assert queue.request(IN, DISK_BYTES // 512, read_bytes=512) == (IOERR, b"\xff" * 512)
        assert queue.request(OUT, data=b"12345")[0] == IOERR
        driver = queue.driver
        header = driver.place(IN.to_bytes(16, "little"))
        driver.offer(driver.make_chain([(header, 9, False), (header + 64, 1, True)]))
        queue.kick()
        assert queue.wait_used(1) == [(0, 1)]
        driver.offer(driver.make_chain([(header, 16, False)]))
        queue.kick()
        assert queue.wait_used(1) == [(0, 0)]
        driver.offer(driver.make_chain([(1, 16, False), (2, 1, True)]))
        queue.kick()
        assert queue.wait_used(1) == [(0, 0)]
        assert queue.request(IN, read_bytes=512) == (OK, bytes(512))


def too_many_requests(driver: MockDriver) -> None:
    driver.avail_idx += driver.queue_size + 1


def head_out_of_range(driver: MockDriver) -> None:
    driver.offer(driver.queue_size)


def next_out_of_range(driver: MockDriver) -> None:
    driver.descriptor(0, GPA, 16, DESC_F_NEXT, driver.queue_size)
    driver.offer(0)


def loop(driver: MockDriver) -> None:
    driver.descriptor(0, GPA, 16, DESC_F_NEXT, 1)
    driver.descriptor(1, GPA, 16, DESC_F_NEXT, 0)
    driver.offer(0)


CORRUPTIONS = [
    (too_many_requests, "the avail index is more than the queue size ahead"),
    (head_out_of_range, "a head index is out of range"),
    (next_out_of_range, "a descriptor's next field is out of range"),
    (loop, "a descriptor chain loops"),
]


@pytest.fixture(scope="module")
def shared_engine() -> Iterator[Engine]:
    with EngineWithWorkers(*MEMORY, "--workers=2") as engine:
        yield engine


@pytest.mark.parametrize(("corrupt", "reason"), CORRUPTIONS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_corrupt_ring(shared_engine: Engine, corrupt: Callable[[MockDriver], None], reason: str) -> None:
    """A corrupt ring: that queue is broken until reset, with a log line; others and the engine live on."""
    children = shared_engine.children()
    with raw_frontend(shared_engine, num_queues=2) as frontend:
        bad, good = frontend.queues
        assert bad.request(OUT, 7, data=b"7" * 512)[0] == OK
        corrupt(bad.driver)
        bad.kick()
        line = f"queue 0 is broken until it is reset: {reason}"
        eventually(lambda: line in shared_engine.log(), line)
        eventually(lambda: read_eventfd(bad.err_fd), "the error event")
        assert good.request(IN, 7, read_bytes=512) == (OK, b"7" * 512)
        bad.driver.start_at(bad.driver.used_idx)  # mended, but nobody looks before a reset
        bad.offer(IN, 7, read_bytes=512)
        assert good.request(IN, 7, read_bytes=512) == (OK, b"7" * 512)
        assert bad.driver.used() == []
        assert frontend.connection.get_vring_base(0) == 1
        frontend.start_queue(0)
        bad.wait_used(1)
        assert bad.request(IN, 7, read_bytes=512) == (OK, b"7" * 512)
    assert shared_engine.children() == children


def read_eventfd(fd: int) -> int:
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


def test_a_head_that_is_in_flight(tmp_path: Path) -> None:
    """A corrupt ring: a chain that is offered again while in flight."""
    gate = Gate(tmp_path)
    with EngineWithWorkers(*gate.options(), "--workers=1") as engine, raw_frontend(engine) as frontend:
        queue = frontend.queues[0]
        queue.offer(FLUSH)
        gate.wait_for_requests(1)
        queue.driver.offer(0)
        queue.kick()
        eventually(lambda: "offered again while in flight" in engine.log(), "the log line")
        gate.open()
        assert queue.wait_used(1) == [(0, 1)]  # what was in flight is done


@pytest.mark.parametrize(
    "message",
    [
        b"\x01\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00",  # version 2
        b"\x01\x00\x00\x00\x01\x00\x00\x00\xff\xff\xff\x7f",  # a payload of 2 GiB
        b"\x02\x00\x00\x00\x01\x00\x00\x00\x03\x00\x00\x00abc",  # SET_FEATURES with three bytes
        b"\x05\x00\x00\x00\x01\x00\x00\x00\x08\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00",  # no fds
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_a_bad_message(shared_engine: Engine, message: bytes) -> None:
    """A bad message from the front end: a clear log line, that session ends, the socket listens again."""
    children = shared_engine.children()
    log_length = len(shared_engine.log())
    with raw_frontend(shared_engine) as frontend:
        frontend.connection.socket.sendall(message)
        with pytest.raises(BackendGone):
            frontend.connection.get_features()
    assert "the vhost-user session ends: " in shared_engine.log()[log_length:]
    with raw_frontend(shared_engine) as frontend:
        assert frontend.queues[0].request(IN, read_bytes=512)[0] == OK
    assert shared_engine.children() == children


@PSYNC_AND_SYNC
def test_a_host_io_error(tmp_path: Path, io_engine: str) -> None:
    """A host I/O error: IOERR to the guest, a log line; never a crash, never a silent success."""
    image = tmp_path / "image"
    image.write_bytes(b"i" * DISK_BYTES)
    options = [f"--blk-file={image}", "--direct=off", f"--io-engine={io_engine}", "--workers=1"]
    with EngineWithWorkers(*options) as engine, raw_frontend(engine) as frontend:
        queue = frontend.queues[0]
        os.truncate(image, 4096)  # what is past the new end cannot be read
        children = engine.children()
        assert queue.request(IN, 64, read_bytes=512)[0] == IOERR
        eventually(lambda: "host I/O error" in engine.log(), "the log line")
        assert queue.request(IN, read_bytes=512) == (OK, b"i" * 512)
        assert engine.children() == children


@PSYNC_AND_SYNC
def test_a_users_backend_that_raises(io_engine: str) -> None:
    """A host I/O error, of a user's backend: IOERR, and a log line with the traceback."""
    options = ["--backend=gated_disk:FailingDisk", f"--backend-arg=size_bytes={DISK_BYTES}"]
    with EngineWithWorkers(*options, f"--io-engine={io_engine}") as engine, raw_frontend(engine) as frontend:
        queue, children = frontend.queues[0], engine.children()
        assert queue.request(IN, DISK_BYTES // 1024, read_bytes=512)[0] == IOERR
        assert queue.request(OUT, DISK_BYTES // 1024, data=bytes(512))[0] == IOERR
        assert queue.request(FLUSH)[0] == IOERR
        assert queue.request(IN, read_bytes=512) == (OK, b"r" * 512)
        eventually(lambda: "cannot flush" in engine.log(), "the log line")
        assert "Traceback" in engine.log()
        assert f"LookupError: nothing at {DISK_BYTES // 2}" in engine.log()
        assert engine.children() == children


def test_a_backend_that_is_read_only_by_itself() -> None:
    """A bad request: a write to a drive whose backend is read-only is refused before it gets there."""
    options = ["--backend=gated_disk:ReadOnlyDisk", f"--backend-arg=size_bytes={DISK_BYTES}"]
    with EngineWithWorkers(*options) as engine, raw_frontend(engine) as frontend:
        assert frontend.connection.get_features() >> 5 & 1  # RO
        assert frontend.queues[0].request(OUT, data=bytes(512))[0] == IOERR
        assert frontend.queues[0].request(IN, read_bytes=512) == (OK, b"r" * 512)


def test_the_supervisor_dies(tmp_path: Path) -> None:
    """The supervisor dies: its children end with it; the next engine removes what is left of it."""
    with EngineWithWorkers(*MEMORY, "--workers=3") as engine:
        children = engine.children()
        assert len(children) == 4
        engine.end(signal.SIGKILL)
        eventually(lambda: all(map(has_ended, children)), "the children's end")
        with EngineWithWorkers(*MEMORY):
            assert shared_names(engine.segment_name) == []
        assert engine.socket_path.exists()  # a path of its own: only an engine that wants it removes it


def test_a_child_that_dies_again_and_again_ends_the_engine() -> None:
    """An engine that cannot go on ends with a clear message and status 1 and leaves nothing behind."""
    with EngineWithWorkers(*MEMORY, "--workers=1", "--io-engine=sync") as engine, raw_frontend(engine):
        killed: set[int] = set()

        def kill_children() -> bool:
            for pid in engine.children() - killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
            return engine.process.poll() is not None

        eventually(kill_children, "the engine's end")
        assert engine.process.returncode == 1
        assert "the engine ends: the dispatcher dies again and again" in engine.log()
        engine.assert_nothing_left(killed)


def test_requests_of_a_killed_engine_are_done_by_the_next(tmp_path: Path) -> None:
    """The supervisor dies: the front end reconnects to a new engine, which finishes what was in flight."""
    gate = Gate(tmp_path)
    with EngineWithWorkers(*gate.options(), "--workers=2") as engine, RawFrontend(engine) as frontend:
        frontend.negotiate()
        frontend.add_memory()
        description, fd = frontend.connection.get_inflight(1, 16)
        frontend.connection.set_inflight(description, fd)
        frontend.start_queue(0)
        queue = frontend.queues[0]
        assert queue.request(OUT, data=bytes(512))[0] == OK
        gpas = [queue.offer(FLUSH, head=2 * number) for number in range(3)]
        gate.wait_for_requests(1)
        engine.end(signal.SIGKILL)
        frontend.connection.close()
        with EngineWithWorkers(*MEMORY) as successor:
            frontend.connect(successor)
            frontend.negotiate()
            frontend.add_memory()
            frontend.connection.set_inflight(description, fd)
            frontend.start_queue(0)
            queue.kick()
            assert sorted(head for head, _ in queue.wait_used(3)) == [0, 2, 4]
            assert [queue.driver.read(gpa, 1) for gpa in gpas] == [b"\0"] * 3
            assert queue.request(IN, read_bytes=512) == (OK, bytes(512))
            assert frontend.connection.get_vring_base(0) == queue.driver.used_idx == 5
        os.close(fd)


def test_an_idle_dispatcher_that_dies() -> None:
    """The dispatcher dies: a new one takes over, and does nothing again that was done."""
    with EngineWithWorkers(*MEMORY, "--io-engine=sync") as engine, raw_frontend(engine) as frontend:
        queue = frontend.queues[0]
        for number in range(20):
            assert queue.request(OUT, number, data=bytes([number]) * 512)[0] == OK
        (pid,) = engine.children()
        os.kill(pid, signal.SIGKILL)
        assert queue.request(IN, 19, read_bytes=512) == (OK, b"\x13" * 512)
        assert queue.driver.used_idx == 21
        assert frontend.connection.get_vring_base(0) == 21


def test_a_broken_invariant(tmp_path: Path) -> None:
    """A broken invariant of our own: an assertion in the log; that process is replaced, nothing is lost."""
    flag = tmp_path / "flag"
    flag.write_bytes(b"\0")
    options = ["--backend=unsound_disk:UnsoundDisk", f"--backend-arg=size_bytes={DISK_BYTES}"]
    with EngineWithWorkers(*options, f"--backend-arg=flag={flag}") as engine:
        children = engine.children()
        flag.write_bytes(b"\1")
        with raw_frontend(engine) as frontend:  # whose first message about memory is carried out all the same
            assert frontend.queues[0].request(OUT, data=b"i" * 512)[0] == OK
            assert frontend.queues[0].request(IN, read_bytes=512) == (OK, b"i" * 512)
        assert "AssertionError: an invariant of the engine's own" in engine.log()
        assert "died: exit status 1; starting another" in engine.log()
        assert len(engine.children() & children) == len(children) - 1


def test_a_worker_that_is_killed() -> None:
    """A worker dies: its requests are done by others, a new worker starts."""
    with (
        EngineWithWorkers(*MEMORY, "--io-engine=psync", "--workers=2") as engine,
        raw_frontend(engine) as frontend,
    ):
        queue, children = frontend.queues[0], engine.children()
        queue.request(OUT, data=b"w" * 512)
        eventually(lambda: len(named(children, "rb-worker-")) == 2, "two processes that are called workers")
        workers = named(children, "rb-worker-")
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        assert queue.request(IN, read_bytes=512) == (OK, b"w" * 512)
        eventually(lambda: not engine.children() & workers, "the workers' end")
        eventually(lambda: len(engine.children()) == len(children), "two new workers")
        assert engine.children() & children == children - workers


def named(pids: set[int], prefix: str) -> set[int]:
    """Those whose name begins so; a process has its name a moment after its start."""
    return {pid for pid in pids if Path(f"/proc/{pid}/comm").read_text().startswith(prefix)}
