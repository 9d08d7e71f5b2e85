"""A second kind of device, the echo device of tests/rigs, in a whole engine: none but itself knows it."""

import os
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringblk.engine.statistics.statistics import OperationSnapshot, take_snapshot
from ringblk.shm.state.segment import StateSegment
from tests.crash.crash_build import crash_build
from tests.crash.crash_plan import CrashPlan
from tests.rigs.echo_kind import GATE_VARIABLE, EchoGate, echo_folder
from tests.rigs.engine_rig import Engine, RawFrontend, eventually
from tests.rigs.separate_build import ROOT

ECHO, NOTE, RECALL, WAIT = range(1, 5)
ROTATE_8 = 12
PROGRAM = (sys.executable, "-m", "tests.rigs.echo_kind")
QUEUE_SIZE = 64
PENDING_POINTS = {
    "psync": ["pending: left by a worker", "pending: head moved", "pending: reaped by a worker"],
    "sync": ["pending: left by the dispatcher", "pending: reaped by the dispatcher"],
}


class Echo:
    """One engine of an echo device after the other, a front end, and the gate."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.image = folder / "image"
        self.image.write_bytes(bytes(1 << 16))
        self.gate = EchoGate(folder)
        self.options = (f"--blk-file={self.image}", "--workers=2", *options)
        self.engine = self.start()
        self.frontend = RawFrontend(self.engine, queue_size=QUEUE_SIZE)
        self.queue = self.frontend.queues[0]
        self.next_head = 0
        self.replies: dict[int, tuple[int, int]] = {}  # where the reply of a head is, and its room
        self.used: list[tuple[int, int]] = []

    def start(self, after: Engine | None = None) -> Engine:
        return Engine(*self.options, program=PROGRAM, after=after)

    def offer(self, command: int, argument: int = 0, data: bytes = b"", room: int = 64) -> int:
        """Offer a request of one or two descriptors; its head."""
        driver, head = self.queue.driver, self.next_head
        self.next_head = (head + 2) % QUEUE_SIZE
        readable = struct.pack("<II", command, argument) + data
        pieces = [(driver.place(readable), len(readable), False)]
        if room:
            pieces.append((driver.reserve(room), room, True))
            self.replies[head] = pieces[1][0], room
        driver.offer(driver.make_chain(pieces, indices=[head, head + 1]))
        self.queue.kick()
        return head

    def wait(self, *heads: int) -> dict[int, bytes | None]:
        """Wait until these came back, and maybe others; their replies."""
        lengths: dict[int, int] = {}
        while not set(heads) <= lengths.keys():
            for head, length in self.queue.wait_used(1):
                lengths[head] = length
                self.used.append((head, length))
        return {head: self.reply(head, lengths[head]) for head in heads}

    def reply(self, head: int, length: int) -> bytes | None:
        if head not in self.replies:
            assert length == 0
            return None
        gpa, room = self.replies[head]
        assert length <= room
        return self.queue.driver.read(gpa, length)

    def ask(self, command: int, argument: int = 0, data: bytes = b"", room: int = 64) -> bytes | None:
        head = self.offer(command, argument, data, room)
        return self.wait(head)[head]

    def wait_depth(self, depth: int) -> None:
        """Wait until so many requests are in flight: a slot is freed a moment after its request came back."""
        state = StateSegment.attach(self.engine.segment_name)
        try:
            eventually(lambda: take_snapshot(state).depth == depth, f"a depth of {depth}")
        finally:
            state.close()

    def close(self) -> None:
        self.frontend.close()
        self.engine.__exit__(None, None, None)
        self.gate.close()


@pytest.fixture
def start_echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Echo]]:
    started: list[Echo] = []

    def start(*options: str, crash_plan: Path | None = None) -> Echo:
        folders = [str(echo_folder()), str(ROOT)]
        if crash_plan is not None:
            folders.insert(0, str(crash_build()))
            monkeypatch.setenv("RINGBLK_CRASH_FILE", str(crash_plan))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))
        monkeypatch.setenv(GATE_VARIABLE, str(tmp_path))
        started.append(Echo(tmp_path, *options))
        return started[-1]

    yield start
    for echo in started:
        echo.close()


ENGINES = pytest.mark.parametrize("io_engine", ["psync", "sync"])


@ENGINES
def test_requests_of_another_kind(start_echo: Callable[..., Echo], io_engine: str) -> None:
    echo = start_echo(f"--io-engine={io_engine}")
    echo.frontend.set_up()
    assert echo.ask(ECHO, data=b"hello") == b"hello"
    assert echo.ask(ECHO, data=b"hello", room=3) == b"hel"
    assert echo.ask(ECHO) == b""
    assert echo.ask(ROTATE_8, data=b"0123456789") == b"8901234567"
    assert echo.ask(NOTE, 1000, b"noted", room=0) is None
    assert echo.image.read_bytes()[1000:1005] == b"noted"
    assert echo.ask(RECALL, 1000, room=7) == b"noted\0\0"
    assert echo.ask(99, data=b"no such command") == b""
    assert echo.ask(NOTE, 1 << 20, b"past the end", room=0) is None
    assert "refuses" not in echo.engine.log()


@ENGINES
def test_its_state_is_what_its_driver_has_set(start_echo: Callable[..., Echo], io_engine: str) -> None:
    echo = start_echo(f"--io-engine={io_engine}")
    echo.frontend.set_up()
    echo.frontend.connection.set_config(0, struct.pack("<I", 2))
    assert echo.frontend.connection.get_config(0, 4) == struct.pack("<I", 2)
    assert echo.ask(ECHO, data=b"hello") == b"he"


def test_statistics_have_its_operations(start_echo: Callable[..., Echo]) -> None:
    echo = start_echo()
    echo.frontend.set_up()
    for _ in range(3):
        echo.ask(ROTATE_8, data=b"12")
    echo.ask(99)
    state = StateSegment.attach(echo.engine.segment_name)
    found: dict[str, OperationSnapshot] = {each.operation: each for each in take_snapshot(state).operations}
    state.close()
    names = ["echo", "note", "recall", "wait", *(f"rotate_{count}" for count in range(1, 9)), "other"]
    assert list(found) == names
    assert (found["rotate_8"].request_count, found["rotate_8"].byte_count) == (3, 6)
    assert (found["other"].request_count, found["other"].error_count) == (1, 1)
    assert found["wait"].request_count == 0


@ENGINES
def test_what_is_pending_holds_nobody(start_echo: Callable[..., Echo], io_engine: str) -> None:
    echo = start_echo(f"--io-engine={io_engine}", "--workers=1")
    echo.frontend.set_up()
    waiting = [echo.offer(WAIT, data=b"%d" % index) for index in range(5)]
    for index in range(20):
        assert echo.ask(ECHO, data=b"%d" % index) == b"%d" % index
    echo.wait_depth(5)
    echo.gate.open()
    assert echo.wait(*waiting) == {head: b"%d" % index for index, head in enumerate(waiting)}
    assert echo.ask(WAIT, data=b"open") == b"open"
    echo.gate.shut()
    again = echo.offer(WAIT, data=b"shut")
    assert echo.ask(ECHO) == b""
    echo.gate.open()
    assert echo.wait(again) == {again: b"shut"}
    echo.wait_depth(0)


@ENGINES
def test_a_ring_that_stops_waits_for_what_is_pending(start_echo: Callable[..., Echo], io_engine: str) -> None:
    echo = start_echo(f"--io-engine={io_engine}")
    echo.frontend.set_up()
    head = echo.offer(WAIT, data=b"x")
    echo.ask(ECHO)
    bases: list[int] = []
    stopping = threading.Thread(target=lambda: bases.append(echo.frontend.connection.get_vring_base(0)))
    stopping.start()
    echo.wait_depth(1)
    assert bases == []
    echo.gate.open()
    stopping.join()
    assert bases == [2]
    assert echo.wait(head) == {head: b"x"}


def kill(echo: Echo, role: str) -> None:
    """Kill the children of this role; returns when another has taken their place."""
    before = {pid for pid in echo.engine.children() if role in Path(f"/proc/{pid}/comm").read_text()}
    assert before
    for pid in before:
        os.kill(pid, 9)
    eventually(
        lambda: any(role in Path(f"/proc/{pid}/comm").read_text() for pid in echo.engine.children() - before),
        f"another {role}",
    )


@pytest.mark.parametrize(
    ("io_engine", "role"), [("psync", "worker"), ("psync", "dispatcher"), ("sync", "dispatcher")]
)
def test_a_death_with_requests_pending(start_echo: Callable[..., Echo], io_engine: str, role: str) -> None:
    echo = start_echo(f"--io-engine={io_engine}")
    echo.frontend.set_up()
    waiting = [echo.offer(WAIT, data=b"%d" % index) for index in range(7)]
    for round_index in range(4):  # more often than a request may kill: they are not what these died of
        assert echo.ask(ECHO, data=b"up") == b"up"
        kill(echo, role)
        assert echo.ask(NOTE, 8 * round_index, b"%d" % round_index, room=0) is None
    echo.wait_depth(7)
    echo.gate.open()
    assert echo.wait(*waiting) == {head: b"%d" % index for index, head in enumerate(waiting)}
    assert sorted(head for head, _ in echo.used) == sorted(range(0, 2 * len(echo.used), 2))
    assert echo.image.read_bytes()[:32:8] == b"0123"
    assert "given up" not in echo.engine.log()


@ENGINES
def test_the_next_engine_does_again_what_was_pending(start_echo: Callable[..., Echo], io_engine: str) -> None:
    echo = start_echo(f"--io-engine={io_engine}")
    frontend = echo.frontend
    frontend.negotiate()
    frontend.add_memory()
    description, inflight_fd = frontend.connection.get_inflight(1, QUEUE_SIZE)
    frontend.start_queue(0)
    waiting = [echo.offer(WAIT, data=b"%d" % index) for index in range(7)]
    assert echo.ask(ECHO, data=b"up") == b"up"
    echo.engine.process.kill()
    echo.engine.process.wait()
    frontend.connection.close()
    echo.engine = echo.start(after=echo.engine)
    frontend.connect(echo.engine)
    frontend.negotiate()
    frontend.add_memory()
    frontend.connection.set_inflight(description, inflight_fd)
    os.close(inflight_fd)
    frontend.start_queue(0)
    assert echo.ask(ECHO, data=b"again") == b"again"
    echo.gate.open()
    assert echo.wait(*waiting) == {head: b"%d" % index for index, head in enumerate(waiting)}


@pytest.mark.parametrize(
    ("io_engine", "point"),
    [(io_engine, point) for io_engine, points in PENDING_POINTS.items() for point in points],
)
def test_a_death_at_each_step_of_being_pending(
    start_echo: Callable[..., Echo], tmp_path: Path, io_engine: str, point: str
) -> None:
    plan = CrashPlan(tmp_path / "plan")
    plan.arm((point, 3))
    echo = start_echo(f"--io-engine={io_engine}", "--workers=1", crash_plan=plan.path)
    echo.frontend.set_up()
    waiting = [echo.offer(WAIT, data=b"%d" % index) for index in range(8)]
    assert echo.ask(ECHO, data=b"up") == b"up"  # the one worker has begun all that came before
    echo.gate.open()
    assert echo.wait(*waiting) == {head: b"%d" % index for index, head in enumerate(waiting)}
    eventually(lambda: plan.deaths == 1, f"a death at {point}")
    assert echo.ask(ECHO, data=b"on") == b"on"
    assert sorted(head for head, _ in echo.used) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
