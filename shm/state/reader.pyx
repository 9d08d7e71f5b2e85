# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What anyone may read of a state segment while its engine runs: counters, histograms, requests in flight.

Nothing is stopped or locked for it. Each number is whole; two of them may be a moment apart.
"""

from libc.stdint cimport uint32_t, uint64_t

from ringblk.shm.sync.atomic cimport load_acquire_32, load_relaxed_32, load_relaxed_64
from ringblk.shm.sync.clock cimport monotonic_ns
from ringblk.shm.layout.histogram cimport Histogram
from ringblk.shm.layout.slot cimport SLOT_FREE, RequestSlot
from ringblk.shm.state.segment cimport (
    DRIVE_NAME_BYTES, ENGINE_NAME_BYTES, KIND_NAME_BYTES, OPERATION_NAME_BYTES, QUEUE_LIMIT, STORAGE_NAME_BYTES, WORKER_LIMIT, OperationStatistics,
    QueueState, StateSegment, WorkerState,
)


def read_engine(StateSegment state):
    """`(drive_name, storage_name, supervisor_pid, dispatcher_pid, dispatcher_restart_count, queue_count, is_paused,
    started_ns, worker_limit)`."""
    header = state.header
    cdef bytes drive = header.drive_name[:DRIVE_NAME_BYTES], storage = header.storage_name[:STORAGE_NAME_BYTES]
    return (drive.rstrip(b"\0").decode(errors="replace"), storage.rstrip(b"\0").decode(errors="replace"), header.supervisor_pid, header.dispatcher_pid,
            header.dispatcher_restart_count, min(header.queue_count, <uint32_t>QUEUE_LIMIT),
            header.is_paused != 0, header.started_ns, load_relaxed_32(&header.worker_limit))


def read_engine_name(StateSegment state):
    """What the engine is called beside others; empty where it has no name of its own."""
    cdef bytes name = state.header.engine_name[:ENGINE_NAME_BYTES]
    return name.rstrip(b"\0").decode(errors="replace")


def read_kind_name(StateSegment state):
    """The name of the device's kind."""
    cdef bytes name = state.header.kind_name[:KIND_NAME_BYTES]
    return name.rstrip(b"\0").decode(errors="replace")


def read_operation(StateSegment state, uint32_t operation):
    """`(name, request_count, byte_count, error_count, throttled_count, throttled_ns, queue_wait, service)`.

    The last two are copied histograms. `operation` is a slot's, below the segment's `operation_count`.
    """
    if operation >= state.operation_count:
        raise IndexError(operation)
    cdef OperationStatistics *statistics = &state.operations[operation]
    cdef bytes name = state.header.operation_names[operation][:OPERATION_NAME_BYTES]
    return (name.rstrip(b"\0").decode(errors="replace"), load_relaxed_64(&statistics.request_count), load_relaxed_64(&statistics.byte_count),
            load_relaxed_64(&statistics.error_count), load_relaxed_64(&statistics.throttled_count),
            load_relaxed_64(&statistics.throttled_ns), Histogram.of(&statistics.queue_wait),
            Histogram.of(&statistics.service))


def read_queue(StateSegment state, uint32_t queue_index):
    """`(broken_reason, kick_count, call_count, suppressed_call_count, popped_count, used_count)`."""
    if queue_index >= QUEUE_LIMIT:
        raise IndexError(queue_index)
    cdef QueueState *queue = &state.queues[queue_index]
    return (load_relaxed_32(&queue.is_broken), load_relaxed_64(&queue.kick_count),
            load_relaxed_64(&queue.call_count), load_relaxed_64(&queue.suppressed_call_count),
            load_relaxed_64(&queue.popped_count), load_relaxed_64(&queue.used_count))


def read_workers(StateSegment state):
    """`(worker_index, pid, request_count, busy_ns, restart_count, held_count)` of each worker there is or was."""
    cdef uint32_t index
    cdef WorkerState *worker
    workers = []
    for index in range(min(load_acquire_32(&state.header.open_worker_count), <uint32_t>WORKER_LIMIT)):
        worker = &state.workers[index]
        if worker.pid or worker.restart_count or load_relaxed_64(&worker.request_count):
            held = <uint32_t>(load_relaxed_32(&worker.submit_tail) - load_relaxed_32(&worker.submit_head))
            workers.append((index, worker.pid, load_relaxed_64(&worker.request_count),
                            load_relaxed_64(&worker.busy_ns), worker.restart_count, held))
    return workers


def read_inflight(StateSegment state):
    """Requests in flight by queue (a list), and how long ago the oldest was popped in nanoseconds (0: none)."""
    cdef uint32_t counts[QUEUE_LIMIT]
    cdef uint64_t now_ns = monotonic_ns(), oldest_ns = now_ns
    cdef uint32_t index
    cdef RequestSlot *slot
    for index in range(<uint32_t>QUEUE_LIMIT):
        counts[index] = 0
    for index in range(state.open_slot_count()):
        slot = &state.slots[index]
        # Acquire: pairs with the dispatcher's release of a slot's state after all else in it.
        if load_acquire_32(&slot.state) == SLOT_FREE:
            continue
        counts[slot.queue_index % QUEUE_LIMIT] += 1
        oldest_ns = min(oldest_ns, load_relaxed_64(&slot.popped_ns))
    return [counts[index] for index in range(QUEUE_LIMIT)], now_ns - oldest_ns
