"""What waits for tokens or for a long list of ranges, in a dispatch loop of the test's own.

Fault model: a driver that has as much in flight as it may, and a drive that is paused meanwhile.
"""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringblk.engine.dispatcher.dispatch_loop import PROGRESS
from ringblk.shm.rates.bucket_settings import BucketSettings
from ringblk.shm.rates.limit_settings import RateLimitSettings
from ringblk.shm.state.segment import MAX_LONG_CHAINS
from ringblk.workers.backends.file import FileBackend
from tests.rigs.inline_device import GET_ID, IN, OK, OUT, InlineDevice

DISK_BYTES = 4 << 20
QUEUE_SIZE = 128
ROUND_OF_POSITIONS = 1 << 16
"""So many pops later, `next_avail` is the same again."""
POLL_NS = 1_000_000_000
DEADLINE_S = 30.0


@pytest.fixture
def device(tmp_path: Path) -> Iterator[InlineDevice]:
    path = tmp_path / "image"
    path.write_bytes(bytes(DISK_BYTES))
    with InlineDevice(FileBackend(path), queue_size=QUEUE_SIZE, ram_bytes=8 << 20, poll_ns=POLL_NS) as device:
        yield device


def limit_writes(device: InlineDevice, bytes_a_second: int) -> None:
    settings = RateLimitSettings(bytes_write=BucketSettings(tokens=bytes_a_second, burst=1))
    device.state.rate_limit.configure(settings, time.monotonic_ns())


def make_request(
    device: InlineDevice, request_type: int, head: int, size_bytes: int = 512, pieces: int = 1
) -> int:
    """Write a request in a table that descriptor `head` refers to; where its status will be."""
    driver = device.driver
    header = driver.place(request_type.to_bytes(8, "little") + bytes(8))
    data, status = driver.place(b"D" * size_bytes), driver.place(b"\xff")
    piece_bytes = size_bytes // pieces
    chain = [(data + index * piece_bytes, piece_bytes, request_type != OUT) for index in range(pieces)]
    driver.make_chain([(header, 16, False), *chain, (status, 1, True)], indirect=True, indices=[head])
    return status


def run_until(device: InlineDevice, count: int) -> list[tuple[int, int]]:
    """Let the loop run until so many chains came back; fails if it sleeps for ever."""
    used = device.driver.used()

    def wake() -> None:
        device.state.announce_control()
        device.wake()

    alarm = threading.Timer(DEADLINE_S, wake)
    alarm.start()
    while len(used) < count:
        assert device.loop.run() == PROGRESS, f"the loop slept with {len(used)} of {count} chains done"
        used += device.driver.used()
    alarm.cancel()
    return used


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16])
def test_whoever_waits_for_progress_hears_of_it(device: InlineDevice, count: int) -> None:
    """However many are published in one go: a queue's stop may wait for the very last of them."""
    for head in range(count):
        make_request(device, IN, head)
    device.driver.offer(*range(count))
    assert len(run_until(device, count)) == count


def test_a_write_that_the_ring_went_round_under_does_not_go_back(device: InlineDevice) -> None:
    """Others have passed it, as many as there are positions: the last of them is not the write."""
    limit_writes(device, 100)
    make_request(device, OUT, 0, 1 << 20)  # hours' worth
    status = make_request(device, OUT, 1)
    others = range(2, 66)
    for head in others:
        make_request(device, GET_ID, head)
    device.driver.offer(0, 1)
    assert run_until(device, 1) == [(0, 1)]
    for _ in range(ROUND_OF_POSITIONS // len(others)):
        device.driver.offer(*others)
        run_until(device, len(others))
    device.loop.drain_queue(0)
    assert run_until(device, 1) == [(1, 1)]
    assert device.driver.read(status, 1)[0] == OK
    assert device.virtqueue.next_avail == device.driver.used_idx == 2
    assert device.loop.unfinished_count(0) == 0


def test_what_waits_for_a_long_list_goes_on_after_a_debt(device: InlineDevice) -> None:
    """The lists became free while the drive was in debt, and nothing else happens when that is paid."""
    limit_writes(device, 200_000_000)
    make_request(device, OUT, 0, 1 << 20)  # a few milliseconds' worth
    writes = range(1, 1 + MAX_LONG_CHAINS)
    for head in writes:
        make_request(device, OUT, head, pieces=512)
    make_request(device, IN, 20)
    make_request(device, IN, 21, pieces=512)
    for _ in range(5):
        device.driver.offer(0, *writes, 20, 21)
        assert sorted(run_until(device, 2)) == [(0, 1), (20, 513)]
        device.loop.pause()
        assert sorted(run_until(device, MAX_LONG_CHAINS)) == [(head, 1) for head in writes]
        device.loop.resume()
        assert run_until(device, 1) == [(21, 513)]
