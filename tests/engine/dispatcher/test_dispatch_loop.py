"""The dispatch loop in this process: whose turn it is, and what becomes of requests that wait for tokens."""

import struct
import threading
import time
from collections.abc import Iterator

import pytest

from ringblk.engine.devices.queue_fds import QueueFds
from ringblk.engine.dispatcher.dispatch_loop import CONTROL, PROGRESS
from ringblk.engine.dispatcher.recovery import Recovery
from ringblk.shm.queues.inflight_region import queue_region_bytes
from ringblk.shm.queues.split.virtqueue import SplitVirtqueue
from ringblk.shm.rates.account import RateAccount
from ringblk.shm.rates.bucket_settings import BucketSettings
from ringblk.shm.rates.limit_settings import RateLimitSettings
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.backends.memory import MemoryBackend
from ringblk.workers.backends.python import PythonBackend
from tests.rigs.engine_rig import DEADLINE_S
from tests.rigs.inline_device import GPA, IN, UVA_OFFSET, InlineDevice
from tests.rigs.mock_driver import MockDriver

DISK_BYTES = 1 << 16
QUEUE_SIZE = 16
FIRST_BYTES = 32768
SECOND_RINGS_GPA = GPA + 0x8000
SECOND_REGION_GPA = GPA + 0x80000


class AnnouncingDisk:
    """A disk during each of whose reads a message for the dispatcher comes in."""

    size_bytes = DISK_BYTES
    read_only = True
    state: StateSegment

    def read_at(self, offset_bytes: int, buffer: memoryview) -> None:
        self.state.announce_control()

    def write_at(self, offset_bytes: int, buffer: memoryview) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        raise NotImplementedError


def offer_reads(driver: MockDriver, *data_gpas: int, first_bytes: int = 512) -> None:
    """Offer a read of a sector into each place, from head 0 on; the first may be longer."""
    header = driver.place(IN.to_bytes(16, "little"))
    chains = []
    for number, data_gpa in enumerate(data_gpas):
        pieces = [
            (header, 16, False),
            (data_gpa, 512 if number else first_bytes, True),
            (driver.place(b"\xff"), 1, True),
        ]
        chains.append(driver.make_chain(pieces, indices=range(3 * number, 3 * number + 3)))
    driver.offer(*chains)


def test_a_message_waits_for_one_chain_and_no_queue_for_ever() -> None:
    """However many chains are on offer; and with a message after each of them, queues still take turns."""
    disk = AnnouncingDisk()
    with InlineDevice(PythonBackend(disk), queue_size=QUEUE_SIZE) as device:
        disk.state = device.state
        device.loop.reports_progress = False
        second = MockDriver(device.ram.view, GPA, QUEUE_SIZE, rings_gpa=SECOND_RINGS_GPA)
        desc_uva, avail_uva, used_uva = (
            gpa + UVA_OFFSET for gpa in (second.desc_gpa, second.avail_gpa, second.used_gpa)
        )
        virtqueue = SplitVirtqueue(1, QUEUE_SIZE, device.memory, desc_uva, avail_uva, used_uva, False)
        virtqueue.resume(bytearray(queue_region_bytes(QUEUE_SIZE)), 0, 0)
        device.loop.add_queue(virtqueue, QueueFds(), True)
        for driver in (device.driver, second):
            offer_reads(driver, *[SECOND_REGION_GPA] * 3)
        turns = []
        for _ in range(6):
            assert device.loop.run() == CONTROL
            device.loop.take_control()
            turns.append((len(device.driver.used()), len(second.used())))
        assert turns == [(1, 0), (0, 1)] * 3
        device.table.remove_queue(1)


def test_a_head_that_is_counted_out_after_a_message_is_heard_of() -> None:
    """Nobody who has the queue of an earlier engine stopped waits for a request that is none."""
    disk = AnnouncingDisk()
    with InlineDevice(PythonBackend(disk), queue_size=QUEUE_SIZE) as device:
        disk.state = device.state
        device.table.remove_queue(0)
        offer_reads(device.driver, SECOND_REGION_GPA, SECOND_REGION_GPA)
        record = bytearray(queue_region_bytes(QUEUE_SIZE))
        struct.pack_into("<QHHHH", record, 0, 0, 1, QUEUE_SIZE, 0, 0)
        for head, counter in ((0, 1), (3, 2)):
            struct.pack_into("<B7xQ", record, 16 + 16 * head, 1, counter)
        assert device.virtqueue.resume(record, 0, 0) == [0, 3]
        device.loop.add_queue(device.virtqueue, QueueFds(), True)
        Recovery(device.loop).resubmit(0)
        record[16 + 16 * 3] = 0  # the front end takes the second back
        assert device.loop.run() == PROGRESS  # the first, with the message
        device.loop.take_control()
        assert (device.driver.used(), device.loop.unfinished_count(0)) == ([(0, 513)], 1)
        guard = threading.Timer(DEADLINE_S, device.state.announce_control)
        guard.start()
        assert device.loop.run() == PROGRESS
        guard.cancel()
        assert device.loop.unfinished_count(0) == 0


@pytest.fixture
def limited() -> Iterator[InlineDevice]:
    """A device of two regions that lets one read through; FIRST_BYTES keep the next waiting five minutes."""
    with InlineDevice(
        MemoryBackend(DISK_BYTES), queue_size=QUEUE_SIZE, cuts=[SECOND_REGION_GPA - GPA]
    ) as device:
        slow = BucketSettings(tokens=100, burst=1)
        device.state.rate_limit.configure(RateLimitSettings(bytes_read=slow), time.monotonic_ns())
        yield device


def test_what_waits_in_memory_that_goes_away_leaves_a_debt(limited: InlineDevice) -> None:
    """It goes on at once, with all that waits before it in its queue; what is behind it waits on."""
    first_gpa, second_gpa = GPA + 0x40000, SECOND_REGION_GPA
    offer_reads(limited.driver, first_gpa, first_gpa, second_gpa, first_gpa, first_bytes=FIRST_BYTES)
    limited.loop.run()
    assert limited.driver.used() == [(0, FIRST_BYTES + 1)]
    assert limited.loop.used_regions() == 0b11
    limited.loop.release_regions(0b10)
    limited.loop.run()
    assert limited.driver.used() == [(3, 513), (6, 513)]
    assert limited.loop.used_regions() == 0b01
    limited.loop.release_regions(0b10)
    account = RateAccount(limited.state.rate_limit, limited.state.rate_limit, False)
    assert -account.credit("bytes_read") == pytest.approx(
        FIRST_BYTES + 2 * 512, rel=0.1
    )  # the three that are done
    limited.loop.drain_queue(0)
    assert limited.driver.used() == []
    assert (limited.loop.unfinished_count(0), limited.loop.used_regions()) == (0, 0)
    assert limited.virtqueue.next_avail == 3  # the last one is as if it had never been popped
