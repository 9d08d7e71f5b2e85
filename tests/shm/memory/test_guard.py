"""Shared memory that is taken from under its user: zeroes in its place, and a bit that says so."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest

from ringblk.shm.memory.guard import INFLIGHT, GuardedPart
from ringblk.shm.memory.guest_memory import GuestMemory
from ringblk.shm.memory.region import MemoryRegion, RegionError
from ringblk.shm.queues.split.virtqueue import SplitVirtqueue
from ringblk.shm.state.segment import SEGMENT_PREFIX, StateSegment

PAGE = 4096


@pytest.fixture
def state() -> Iterator[StateSegment]:
    state = StateSegment.create(f"{SEGMENT_PREFIX}test-{uuid.uuid4().hex}", 2, 2)
    yield state
    state.close()


@pytest.fixture
def fd() -> Iterator[int]:
    fd = os.memfd_create("front end's")
    os.ftruncate(fd, 4 * PAGE)
    os.pwrite(fd, b"\x55" * 4 * PAGE, 0)
    yield fd
    os.close(fd)


def test_bytes_that_are_cut_off_are_zeroes_all_of_them(state: StateSegment, fd: int) -> None:
    view = memoryview(GuardedPart(state, INFLIGHT, fd, 2 * PAGE, PAGE + 64))
    assert len(view) == 2 * PAGE
    assert view[0] == 0x55
    os.ftruncate(fd, 2 * PAGE)
    assert view[0] == 0x55  # it is noticed when it is touched
    assert state.lost_memory == (0, 0)
    assert view[PAGE] == 0
    assert state.lost_memory == (0, 1)
    assert bytes(view) == bytes(2 * PAGE)  # whoever reads on does not mix what there was with what was lost
    view[PAGE] = 7
    assert view[PAGE] == 7


def test_a_fault_says_which_region_it_was(state: StateSegment, fd: int) -> None:
    memory = GuestMemory(state)
    regions = [MemoryRegion(index * PAGE, PAGE, index * PAGE, index * PAGE) for index in range(4)]
    for index, region in enumerate(regions):
        memory.add(index + 10, region, fd, 1)
    queue = SplitVirtqueue(0, 2, memory, 0, 2 * PAGE, 3 * PAGE, False)
    assert queue.used_idx == 0x5555
    os.ftruncate(fd, 3 * PAGE)
    assert queue.used_idx == 0
    assert state.lost_memory == (1 << 13, 0)
    os.ftruncate(fd, 0)
    assert queue.pop() is None
    assert state.lost_memory == (1 << 13 | 1 << 12, 0)


def test_a_region_that_cannot_be_mapped_any_more_is_lost_where_that_is_asked_for(state: StateSegment) -> None:
    fd = os.open("/proc/self/exe", os.O_RDONLY)
    region = MemoryRegion(0, PAGE, 0, 0)
    memory = GuestMemory(state)
    with pytest.raises(RegionError):
        memory.add(0, region, fd, 1)
    memory.add(0, region, fd, 1, or_lost=True)
    assert state.lost_memory == (1, 0)
    with pytest.raises(RegionError):  # without anybody to tell
        GuestMemory().add(0, region, fd, 1, or_lost=True)
    with pytest.raises(PermissionError):
        GuardedPart(state, INFLIGHT, fd, PAGE, 0)
    GuardedPart(state, INFLIGHT, fd, PAGE, 0, or_lost=True)
    assert state.lost_memory == (1, 1)
    os.close(fd)


def test_mappings_come_and_go_without_end(state: StateSegment, fd: int) -> None:
    for _ in range(1000):
        memory = GuestMemory(state)
        memory.add(0, MemoryRegion(0, PAGE, 0, 0), fd, 1)
        memory.unmap(0)
        memory.add(0, MemoryRegion(0, PAGE, 0, 0), fd, 1)
        GuardedPart(state, INFLIGHT, fd, PAGE, 0)


GUARDED = """
import mmap, os, signal, sys
from ringblk.shm.memory.guard import INFLIGHT, GuardedPart
from ringblk.shm.state.segment import StateSegment
fd = os.memfd_create("memory")
os.ftruncate(fd, 8192)
state = StateSegment.create(sys.argv[1], 2, 2)
guarded, bare = GuardedPart(state, INFLIGHT, fd, 4096, 0), mmap.mmap(fd, 4096)
state.close()
os.ftruncate(fd, 0)
"""


@pytest.mark.parametrize("cause", ["bare[0]", "os.kill(os.getpid(), signal.SIGBUS)"])
def test_every_other_bus_error_is_deadly(cause: str) -> None:
    name = f"{SEGMENT_PREFIX}test-{uuid.uuid4().hex}"
    done = subprocess.run([sys.executable, "-c", GUARDED + cause, name])
    assert done.returncode == -signal.SIGBUS
