"""A state segment of no engine, and requests that were recorded in it as a dispatcher would."""

import os
import uuid

from ringblk.engine.dispatcher.request_recorder import RequestRecorder
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.block.parser import OPERATION_NAMES

READ, WRITE, OTHER = 1 + OPERATION_NAMES.index("read"), 1 + OPERATION_NAMES.index("write"), 0
MICROSECOND_NS = 1000
DRIVE = "/images/disk.img"


def make_state(drive: str = DRIVE, queue_count: int = 2) -> StateSegment:
    """A drive that was started when the machine was, with a dispatcher; the caller's to close."""
    state = StateSegment.create(f"ringblk-test-{uuid.uuid4().hex}", 64, 16, "block", OPERATION_NAMES)
    state.open_slots()
    state.open_worker(5)
    state.set_engine("", drive, os.getpid(), queue_count, 0)
    state.set_dispatcher(17)
    return state


def record(
    recorder: RequestRecorder,
    count: int,
    *,
    operation: int = READ,
    wait_us: int = 10,
    service_us: int = 100,
    length_bytes: int = 4096,
    status: int = 0,
    throttled_us: int = 0,
    queue_index: int = 0,
) -> None:
    """Complete so many requests."""
    recorder.fill_slot(
        0,
        operation=operation,
        wait_ns=wait_us * MICROSECOND_NS,
        service_ns=service_us * MICROSECOND_NS,
        length_bytes=length_bytes,
        status=status,
        throttled_ns=throttled_us * MICROSECOND_NS,
        queue_index=queue_index,
    )
    recorder.record_many(0, count)
