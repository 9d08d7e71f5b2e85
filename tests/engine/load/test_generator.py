"""Loads on a real engine: what is counted is what was done.

How many requests a time has room for is the machine's: a measurement that saw too few for what is asserted is
made again, for longer. Which request of several in flight ends first is the engine's.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ringblk import BackendGone, Frontend, engine_command
from ringblk.engine.frontend.buffer import Buffer
from ringblk.engine.load.generator import generate_load
from ringblk.engine.load.load import Load, LoadFigures
from ringblk.engine.load.queue import LoadQueue
from tests.rigs.engine_rig import eventually

DISK_BYTES = 256 << 10
SECONDS = (0.1, 0.5, 2.0, 10.0)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(DISK_BYTES))
    return path


def measure(
    image: Path,
    load: Load,
    *options: str,
    polling: bool = False,
    queue_size: int = 64,
    is_enough: Callable[[], bool] = lambda: True,
) -> LoadFigures:
    """What a load came to that had more requests than it has in flight, and enough of them."""
    command = engine_command(
        f"--blk-file={image}", f"--num-queues={load.num_queues}", "--workers=2", *options
    )
    with Frontend(
        command,
        memory_size_bytes=load.memory_bytes,
        num_queues=load.num_queues,
        queue_size=queue_size,
        polling=polling,
    ) as disk:
        assert disk.backend_pid is not None
        pids = [disk.backend_pid, os.getpid()]
        for seconds in SECONDS:
            figures = generate_load(disk, load, seconds=seconds, warm_up_s=0.0, backend_pids=lambda: pids)
            assert figures.seconds == seconds
            assert disk.inflight_count() == 0
            assert len(disk.read(0, 4096)) == 4096
            if figures.request_count > load.depth and is_enough():
                return figures
    pytest.fail(f"too few requests in {seconds} s: {figures}")


@pytest.mark.parametrize("polling", [False, True])
@pytest.mark.parametrize("depth", [1, 32])
def test_figures_agree_with_each_other(image: Path, depth: int, polling: bool) -> None:
    figures = measure(image, Load(depth=depth), polling=polling)
    assert figures.error_count == 0
    assert figures.iops == pytest.approx(figures.request_count / figures.seconds)
    assert figures.mib_per_s == pytest.approx(figures.iops / 256)
    assert 0 < figures.p50_us <= figures.p99_us <= figures.p999_us
    # Little's law: no more than `depth` requests are in flight, and none since before the begin.
    assert figures.iops * figures.mean_us / 1e6 <= depth * 1.001
    assert figures.driver_us_per_io > 0
    assert image.read_bytes() == bytes(DISK_BYTES)


def test_a_depth_beyond_the_ring_waits_for_room(image: Path) -> None:
    figures = measure(image, Load(depth=50), queue_size=8)
    assert figures.error_count == 0


@pytest.mark.parametrize("depth", [1, 2])
def test_sequential_writes_come_past_every_block_on_each_queues_share(image: Path, depth: int) -> None:
    def blocks() -> list[bytes]:
        data = image.read_bytes()
        return [data[start : start + 4096] for start in range(0, DISK_BYTES, 4096)]

    load = Load(pattern="sequential", read_percent=0, num_queues=2, depth=depth)
    # A measurement begins on a disk of zeroes, as its data is new.
    contents: list[list[bytes]] = []

    def is_whole() -> bool:
        contents.append(blocks())
        image.write_bytes(bytes(DISK_BYTES))
        return bytes(4096) not in contents[-1]

    measure(image, load, is_enough=is_whole)
    half = len(contents[-1]) // 2
    first, second = set(contents[-1][:half]), set(contents[-1][half:])
    # Each queue writes from its own places in memory, one for each request in flight; which of them wrote a
    # block last depends on which request had ended.
    assert first.isdisjoint(second)
    assert 1 <= len(first) <= depth
    assert 1 <= len(second) <= depth


def make_queue(disk: Frontend, buffer: Buffer, read_percent: int = 0) -> LoadQueue:
    return LoadQueue(
        disk.queues[0],
        buffer,
        block_bytes=4096,
        first_block=0,
        block_count=16,
        depth=4,
        is_sequential=False,
        read_percent=read_percent,
        seed=1,
    )


@pytest.mark.parametrize("read_percent", [0, 30, 100])
def test_mixed_loads_write_their_part(image: Path, read_percent: int) -> None:
    with Frontend(engine_command(f"--blk-file={image}")) as disk, disk.allocate(4 * 4096, 4096) as buffer:
        queue = make_queue(disk, buffer, read_percent)
        now_ns = time.monotonic_ns()
        run = threading.Thread(target=queue.run, args=(now_ns, now_ns + 60 * 1_000_000_000))
        run.start()
        eventually(lambda: queue.started_count >= 1000, "a thousand requests")
        queue.stopping = True
        run.join()
        assert queue.histogram.count == queue.started_count
        assert abs(queue.write_count / queue.started_count - (100 - read_percent) / 100) <= 0.1


def test_what_is_in_flight_at_the_end_of_the_time_is_done_and_not_counted(image: Path) -> None:
    with Frontend(engine_command(f"--blk-file={image}")) as disk, disk.allocate(4 * 4096, 4096) as buffer:
        queue = make_queue(disk, buffer)
        begin_ns = time.monotonic_ns()
        queue.run(begin_ns, begin_ns + 50_000_000)
        assert disk.inflight_count() == 0
        assert queue.histogram.count <= queue.started_count <= queue.histogram.count + 4


def test_failed_requests_are_counted(image: Path) -> None:
    figures = measure(image, Load(read_percent=0, depth=4), "--read-only")
    assert figures.error_count == figures.request_count > 0


def test_a_back_end_that_goes_is_reported(image: Path) -> None:
    load = Load(depth=4)
    with Frontend(engine_command(f"--blk-file={image}"), memory_size_bytes=load.memory_bytes) as disk:
        assert disk.backend_pid is not None
        os.kill(disk.backend_pid, signal.SIGKILL)
        with pytest.raises(BackendGone):
            generate_load(disk, load, seconds=60.0)


def test_loads_that_cannot_be_are_refused(image: Path) -> None:
    with Frontend(engine_command(f"--blk-file={image}"), memory_size_bytes=1 << 20) as disk:
        with pytest.raises(ValueError, match="2 queues"):
            generate_load(disk, Load(num_queues=2), seconds=SECONDS[0])
        with pytest.raises(ValueError, match="0 blocks"):
            generate_load(disk, Load(block_bytes=512 << 10), seconds=SECONDS[0])
        with pytest.raises(MemoryError):
            generate_load(disk, Load(depth=1024), seconds=SECONDS[0])
