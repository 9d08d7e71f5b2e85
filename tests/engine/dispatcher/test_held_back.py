"""Requests that an engine holds back, for tokens or in a pause, while queues stop and sessions end.

Fault model: the driver stops its queues whenever it likes, the front end brings any in-flight region and
hangs up at any time, the dispatcher is killed.
"""

import contextlib
import mmap
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.rigs.control_client import ONE_IN_TEN_MINUTES, ControlClient, kill_and_reap
from tests.rigs.engine_rig import Engine, Gate, RawFrontend, eventually, raw_frontend
from tests.rigs.inline_device import FLUSH, GET_ID, IN, OK, OUT
from tests.rigs.mock_driver import DESC_F_INDIRECT

DISK_BYTES = 1 << 20
RING_SIZE = 1024
"""More than the engine has slots for at once."""


@contextlib.contextmanager
def controlled(folder: Path, *options: str) -> Iterator[tuple[Engine, ControlClient, Path]]:
    image = folder / "image"
    image.write_bytes(bytes(DISK_BYTES))
    control = ControlClient(folder / "control")
    with Engine(f"--blk-file={image}", "--workers=1", f"--control={control.socket_path}", *options) as engine:
        yield engine, control, image


def bring_inflight(frontend: RawFrontend, heads: int) -> mmap.mmap:
    """Have an in-flight region that says of so many chains that an earlier engine was at them."""
    queue_size = frontend.queues[0].driver.queue_size
    description, fd = frontend.connection.get_inflight(1, queue_size)
    record = mmap.mmap(fd, description.mmap_size_bytes)
    struct.pack_into("<QHHHH", record, 0, 0, 1, queue_size, 0, 0)
    for head in range(heads):
        struct.pack_into("<B7xQ", record, 16 + 16 * head, 1, head)
    frontend.connection.set_inflight(description, fd)
    os.close(fd)
    return record


def test_stopping_a_queue_again_and_again_is_no_way_round_a_limit(tmp_path: Path) -> None:
    """What waits for tokens goes back to the ring, in its order; it is done when its time has come."""
    with (
        controlled(tmp_path, "--iops=1") as (engine, control, _),
        RawFrontend(engine) as frontend,
    ):
        control.change("/drive", rate_limiter=ONE_IN_TEN_MINUTES)
        frontend.negotiate()
        frontend.add_memory()
        frontend.start_queue(0)
        queue = frontend.queues[0]
        for head in (0, 2, 4, 6):
            queue.offer(IN, read_bytes=512, head=head)
        queue.wait_used(1)
        for _ in range(10):
            assert frontend.connection.get_vring_base(0) == queue.driver.used_idx == 1
            frontend.start_queue(0)
        control.change("/drive", iops=0)
        queue.wait_used(3)
        assert control.get("/stats")["queues"][0]["popped_count"] == 4


def test_a_pause_leaves_in_the_ring_what_waits_for_tokens(tmp_path: Path) -> None:
    with (
        controlled(tmp_path, "--iops=1") as (engine, control, _),
        RawFrontend(engine) as frontend,
    ):
        control.change("/drive", rate_limiter=ONE_IN_TEN_MINUTES)
        queue = frontend.set_up().queues[0]
        for head in (0, 2, 4, 6):
            queue.offer(IN, read_bytes=512, head=head)
        queue.wait_used(1)
        control.post("/pause")
        assert queue.driver.used_idx == control.get("/stats")["queues"][0]["popped_count"] == 1
        control.change("/drive", iops=0)
        control.post("/resume")
        queue.wait_used(3)


def test_what_was_overtaken_is_let_go_at_a_stop_and_paid_for_before_anything_is_popped(
    tmp_path: Path,
) -> None:
    """A read has passed two writes that wait: they cannot go back to the ring."""
    with (
        controlled(tmp_path, "--bps-write=1000", "--burst=1") as (engine, control, image),
        RawFrontend(engine) as frontend,
    ):
        queue = frontend.set_up().queues[0]
        queue.offer(OUT, data=b"a" * 0x10000)  # a minute's worth
        queue.wait_used(1)
        queue.driver.forget_places()
        for head, letter in ((2, b"b"), (4, b"c")):
            queue.offer(OUT, sector=head * 64, data=letter * 4096, head=head)
        queue.offer(IN, read_bytes=512, head=6)
        queue.wait_used(1)
        assert queue.driver.used_idx == 2
        queue.offer(OUT, data=b"d" * 4096, head=8)
        assert frontend.connection.get_vring_base(0) == queue.driver.used_idx == 4
        assert image.read_bytes()[2 * 64 * 512 :][:4096] == b"b" * 4096
        frontend.start_queue(0)
        queue.offer(IN, read_bytes=512, head=10)
        control.change("/drive", iops=1000)  # another limit, and so the loop has been round
        assert control.get("/stats")["queues"][0]["popped_count"] == 4
        control.change("/drive", bps_write=0)
        eventually(lambda: queue.driver.used_idx == 6, "the rest done")


def test_a_session_ends_without_waiting_for_tokens(tmp_path: Path) -> None:
    """Of requests of an earlier engine as well, for more of which than have a slot."""
    with controlled(tmp_path, "--iops=1") as (engine, _, _):
        with RawFrontend(engine, queue_size=RING_SIZE) as frontend:
            frontend.negotiate()
            frontend.add_memory()
            record = bring_inflight(frontend, RING_SIZE)
            driver = frontend.queues[0].driver
            read = [
                (driver.place(IN.to_bytes(16, "little")), 16, False),
                (driver.place(bytes(513)), 513, True),
            ]
            table = driver.make_table(read)
            for head in range(RING_SIZE):
                driver.descriptor(head, table, 32, DESC_F_INDIRECT, 0)
            frontend.start_queue(0)
        record.close()
        with raw_frontend(engine) as frontend:
            assert frontend.connection.get_vring_base(0) == 0


def test_a_paused_engine_leaves_what_an_earlier_one_left(tmp_path: Path) -> None:
    """Until it goes on, or for the queue's next start."""
    with controlled(tmp_path) as (engine, control, image):
        control.post("/pause")
        with RawFrontend(engine) as frontend:
            frontend.negotiate()
            frontend.add_memory()
            queue = frontend.queues[0]
            record = bring_inflight(frontend, 1)
            queue.offer(OUT, data=b"W" * 512)
            for _ in range(2):
                frontend.start_queue(0)
                assert frontend.connection.get_vring_base(0) == 1
                assert record[16] == 1  # in flight still
            frontend.start_queue(0)
            assert control.get()["is_paused"]
            assert image.read_bytes()[:512] == bytes(512)
            control.post("/resume")
            queue.wait_used(1)
            assert image.read_bytes()[:512] == b"W" * 512
            assert record[16] == 0
        record.close()


def test_a_pause_that_a_dispatcher_dies_in_can_be_ended(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    control = ControlClient(tmp_path / "control")
    options = [*gate.options(), "--workers=1", f"--control={control.socket_path}"]
    with Engine(*options) as engine, raw_frontend(engine) as frontend:
        queue = frontend.queues[0]
        queue.offer(FLUSH)
        gate.wait_for_requests(1)
        pause = threading.Thread(target=control.ask, args=("POST", "/pause"))
        pause.start()
        control.wait_for(lambda engine: engine["is_paused"])
        kill_and_reap(control.processes["dispatcher"])
        assert not control.post("/resume")["is_paused"]
        pause.join()
        gate.open()
        queue.wait_used(1)
        assert queue.request(GET_ID, read_bytes=20)[0] == OK
