"""Runs data_path.pyx."""

import os
from collections.abc import Iterator
from typing import Any

from ringblk.engine.dispatcher.handover import Handover
from ringblk.engine.frontend.memory import FrontendMemory
from ringblk.engine.frontend.queue import FrontendQueue, queue_bytes
from ringblk.shm.memory.guest_memory import GuestMemory
from ringblk.shm.queues.inflight_region import queue_region_bytes
from ringblk.shm.queues.split.virtqueue import SplitVirtqueue
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.backends.null import NullBackend
from ringblk.workers.block.executor import BlockExecutor
from ringblk.workers.block.parser import OPERATION_NAMES, BlockParser
from ringblk.workers.block.state import publish_block_state
from tests.bench.compiled import compiled

_GPA = 1 << 32
_QUEUE_SIZE = 256
_CAPACITY_BYTES = 1 << 32
_ROUNDS = 100
_REQUESTS = 12_800


def step_times_ns(batch_size: int) -> Iterator[tuple[str, float]]:
    """Nanoseconds a request in each step, its best of many short rounds, in batches of this size."""
    module = compiled("data_path")
    state = StateSegment.create(f"ringblk-micro-{os.getpid()}", 256, _QUEUE_SIZE, "block", OPERATION_NAMES)
    state.open_slots()
    state.open_worker(0)
    try:
        path = _data_path(module, state, batch_size)
        rounds = [path.run(_REQUESTS // batch_size, batch_size) for _ in range(_ROUNDS)]
    finally:
        state.close()
    clock_ns = min(module.clock_ns(10_000) for _ in range(_ROUNDS))
    best = {step: min(found[step] for found in rounds) - clock_ns / batch_size for step in rounds[0]}
    yield from best.items()
    yield "together", sum(best.values())
    yield "reading the clock once (taken off each step)", clock_ns


def _data_path(module: Any, state: StateSegment, batch_size: int) -> Any:
    guest = FrontendMemory(queue_bytes(_QUEUE_SIZE) + 4096 * (batch_size + 2), _GPA)
    rings = guest.allocate(queue_bytes(_QUEUE_SIZE), 64)
    data = guest.allocate(4096 * batch_size, 4096)
    driver = FrontendQueue(
        guest.mapping,
        _GPA,
        0,
        _QUEUE_SIZE,
        offset_bytes=rings.gpa - _GPA,
        indirect=True,
        event_idx=True,
        polling=True,
    )
    publish_block_state(
        state,
        capacity_sectors=_CAPACITY_BYTES // 512,
        is_read_only=False,
        durable_writes=False,
        is_flush_offered=True,
        is_discard_offered=True,
    )
    memory = GuestMemory()
    memory.add(0, guest.region, guest.fd, 1)
    ring = driver.virtqueue
    desc_uva, avail_uva, used_uva = (
        FrontendMemory.uva(gpa) for gpa in (ring.desc_gpa, ring.avail_gpa, ring.used_gpa)
    )
    virtqueue = SplitVirtqueue(0, _QUEUE_SIZE, memory, desc_uva, avail_uva, used_uva, True)
    virtqueue.resume(bytearray(queue_region_bytes(_QUEUE_SIZE)), 0, 0)
    handover = Handover(state)
    handover.free_all_but([])
    handover.worker_up(0, os.eventfd(0))
    executor = BlockExecutor(state, memory, NullBackend(_CAPACITY_BYTES), b"micro")
    parser = BlockParser(state, memory, 512)
    return module.DataPath(driver, data.gpa, state, memory, virtqueue, handover, parser, executor)
