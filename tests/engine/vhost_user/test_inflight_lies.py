"""In-flight regions that a front end writes to: it may lose its own requests by that, and nothing else.

Fault model: the front end writes anything into the region at any time, also while a dispatcher dies.
"""

import contextlib
import mmap
import os
import random
import signal
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringblk import BackendGone, BackendRefused
from ringblk.engine.devices.queue_fds import QueueFds
from ringblk.engine.dispatcher.dispatch_loop import PROGRESS
from ringblk.engine.dispatcher.recovery import Recovery
from ringblk.engine.vhost_user.messages import InflightDescription
from ringblk.shm.queues.inflight_region import queue_region_bytes
from ringblk.workers.backends.memory import MemoryBackend
from tests.rigs.engine_rig import (
    MEMORY,
    Engine,
    EngineWithWorkers,
    Gate,
    RawFrontend,
    eventually,
    raw_frontend,
)
from tests.rigs.inline_device import FLUSH, IN, InlineDevice

OPTIONS = (*MEMORY, "--num-queues=2", "--workers=2")
QUEUE_SIZE = 16


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with EngineWithWorkers(*OPTIONS) as engine:
        yield engine


class Liar:
    """A front end that is set up but for its queue, with the in-flight region open to be written."""

    def __init__(self, engine: Engine) -> None:
        self.frontend = RawFrontend(engine)
        self.frontend.negotiate()
        self.frontend.add_memory()
        description, self.fd = self.frontend.connection.get_inflight(1, QUEUE_SIZE)
        self.record = mmap.mmap(self.fd, description.mmap_size_bytes)
        self.frontend.connection.set_inflight(description, self.fd)

    def close(self) -> None:
        self.frontend.close()
        self.record.close()
        os.close(self.fd)


@pytest.mark.parametrize("counter", [1 << 63, (1 << 64) - 1])
def test_a_counter_that_would_overflow(engine: Engine, counter: int) -> None:
    children = engine.children()
    liar = Liar(engine)
    struct.pack_into("<QHHHH", liar.record, 0, 0, 1, QUEUE_SIZE, 0, 0)
    struct.pack_into("<B7xQ", liar.record, 16, 1, counter)
    with pytest.raises(BackendRefused):
        liar.frontend.start_queue(0)
    assert f"in-flight region has a counter, {counter}, that no engine can have reached" in engine.log()
    liar.close()
    check_service(engine)
    assert engine.children() == children


@pytest.mark.parametrize("offset_bytes", [1, 4, 4097])
def test_a_region_that_is_not_aligned(engine: Engine, offset_bytes: int) -> None:
    liar = Liar(engine)
    description = InflightDescription(len(liar.record), offset_bytes, 1, QUEUE_SIZE)
    fd = os.memfd_create("record")
    os.ftruncate(fd, len(liar.record) + offset_bytes)
    with pytest.raises(BackendRefused):
        liar.frontend.connection.set_inflight(description, fd)
    os.close(fd)
    assert f"begins at {offset_bytes}, which is no multiple of 8" in engine.log()
    liar.close()
    check_service(engine)


def test_records_of_random_bytes(engine: Engine) -> None:
    """Refused or not, they are done with: the queue can be stopped, and the next front end is served."""
    children, choice = engine.children(), random.Random(20261121)
    for _ in range(60):
        liar = Liar(engine)
        liar.record[:] = choice.randbytes(len(liar.record))
        used_idx = choice.choice([0, 0, 1, 8])  # of the last batch; the ring's is 0
        struct.pack_into(
            "<QHHHH", liar.record, 0, 0, 1, QUEUE_SIZE, choice.randrange(QUEUE_SIZE + 1), used_idx
        )
        for head in range(QUEUE_SIZE):  # some in flight, with counters that may be
            struct.pack_into(
                "<B5xHQ", liar.record, 16 + 16 * head, choice.randrange(2), choice.randrange(20), head
            )
        try:
            liar.frontend.start_queue(0)
        except BackendRefused:
            pass
        else:
            liar.record[:] = choice.randbytes(len(liar.record))
            liar.frontend.connection.get_vring_base(0)
        liar.close()
    check_service(engine)
    assert engine.children() == children


@contextlib.contextmanager
def changing(record: mmap.mmap, seed: int) -> Iterator[None]:
    """A second process that puts entries in flight and takes them out, as fast as it can."""
    pid = os.fork()
    if pid == 0:
        choice = random.Random(seed)
        entries = [struct.pack("<B5xHQ", flag, head, head) for flag in (0, 1) for head in range(QUEUE_SIZE)]
        while True:
            place = 16 + 16 * choice.randrange(QUEUE_SIZE)
            record[place : place + 16] = choice.choice(entries)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_record_that_changes_all_the_time(engine: Engine) -> None:
    """Whatever is read at which moment: the queue can be stopped, and the next front end is served."""
    children = engine.children()
    for seed in range(20):
        liar = Liar(engine)
        struct.pack_into("<QHHHH", liar.record, 0, 0, 1, QUEUE_SIZE, 0, 0)
        queue = liar.frontend.queues[0]
        with changing(liar.record, seed):
            for head in range(0, QUEUE_SIZE, 2):
                queue.offer(IN, read_bytes=512, head=head)
            with contextlib.suppress(BackendRefused):
                liar.frontend.start_queue(0)
                liar.frontend.connection.get_vring_base(0)
        liar.close()
    check_service(engine)
    assert engine.children() == children


@pytest.mark.parametrize(
    "lie",
    [{0: (0, 0)}, {2: (1, 9)}, {0: (1, 99), 1: (1, 0)}, {0: (0, 0), 1: (0, 0), 2: (1, 1), 3: (1, 2)}],
    ids=["cleared", "set", "other counters", "exchanged"],
)
def test_a_record_that_is_changed_after_it_was_read(lie: dict[int, tuple[int, int]]) -> None:
    """It is read once: what was found in flight is done or counted out, and nobody waits for the rest."""
    backend = MemoryBackend(1 << 20)
    device = InlineDevice(backend, queue_size=QUEUE_SIZE)
    device.table.remove_queue(0)
    driver = device.driver
    read = [(driver.place(bytes(16)), 16, False), (driver.place(b"\xff" * 513), 513, True)]
    for index in range(5):  # every head that is named below is a chain
        driver.make_chain(read, indices=[index, index + 8])
    record = bytearray(queue_region_bytes(QUEUE_SIZE))
    struct.pack_into("<QHHHH", record, 0, 0, 1, QUEUE_SIZE, 0, 0)
    for head in (1, 0):
        struct.pack_into("<B7xQ", record, 16 + 16 * head, 1, 5 - head)
    assert device.virtqueue.resume(record, 0, 0) == [1, 0]
    for head, (flag, counter) in lie.items():
        struct.pack_into("<B7xQ", record, 16 + 16 * head, flag, counter)
    driver.avail_idx = 2
    driver.offer(4)
    device.loop.add_queue(device.virtqueue, QueueFds(None, None), True)
    Recovery(device.loop).resubmit(0)
    assert device.loop.unfinished_count(0) == 2
    while device.loop.unfinished_count(0):
        assert device.loop.run() == PROGRESS
    kept = [head for head in (1, 0) if lie.get(head, (1, 0))[0]]
    assert [head for head, _ in driver.used()] == [*kept, 4]
    device.close()


def test_a_region_cannot_be_exchanged_under_a_running_queue(engine: Engine) -> None:
    liar = Liar(engine)
    liar.frontend.start_queue(0)
    with pytest.raises(BackendGone):  # there is no other way to refuse a question
        liar.frontend.connection.get_inflight(1, QUEUE_SIZE)
    liar.close()
    check_service(engine)


@pytest.mark.parametrize("lie", ["cleared", "another counter"])
def test_a_record_that_is_wrong_when_the_dispatcher_dies(lie: str) -> None:
    """What a worker is at work on is no free slot, whatever the record says; it comes back once."""
    with tempfile.TemporaryDirectory() as folder:
        gate = Gate(Path(folder))
        with EngineWithWorkers(*gate.options(), "--workers=2") as engine:
            liar = Liar(engine)
            liar.frontend.start_queue(0)
            queue = liar.frontend.queues[0]
            queue.offer(FLUSH, head=0)
            gate.wait_for_requests(1)
            if lie == "cleared":
                liar.record[16:] = bytes(len(liar.record) - 16)
            else:
                struct.pack_into("<Q", liar.record, 24, 12345)
            (pid,) = [
                pid for pid in engine.children() if "dispatcher" in Path(f"/proc/{pid}/comm").read_text()
            ]
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: "starting another" in engine.log(), "another dispatcher")
            if lie == "cleared":  # so nothing was popped, it says: head 0 comes once more
                queue.offer(99, head=2)
                eventually(lambda: "queue 0 is broken" in engine.log(), "the log line")
            else:
                for number in range(
                    5
                ):  # answered by the dispatcher; the slot that is under way is not theirs
                    queue.offer(99, head=2)
                    assert queue.wait_used(1) == [(2, 1)], number
            gate.open()
            assert queue.wait_used(1) == [(0, 1)]
            liar.frontend.connection.get_vring_base(0)
            liar.close()
            check_service(engine, FLUSH, gate)


def check_service(engine: Engine, request_type: int = IN, gate: Gate | None = None) -> None:
    with raw_frontend(engine) as frontend:
        queue = frontend.queues[0]
        queue.offer(request_type)
        if gate is not None:
            gate.open()
        assert queue.wait_used(1) == [(0, 1)]
        assert queue.driver.used_idx == 1
