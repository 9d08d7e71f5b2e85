"""Microbenchmarks: nanoseconds an operation, the best of some rounds; one JSON line each."""

import mmap
import os
import random
import struct
import sys
import time
from collections.abc import Callable

import msgspec

from ringblk.engine.dispatcher.request_recorder import RequestRecorder
from ringblk.engine.statistics.statistics import take_snapshot
from ringblk.shm.memory.guest_memory import GuestMemory
from ringblk.shm.rates.bucket_settings import MAX_TOKENS, BucketSettings
from ringblk.shm.rates.limit import BUCKET_NAMES, READ, RateLimit
from ringblk.shm.rates.limit_settings import RateLimitSettings
from ringblk.shm.rates.token_bucket import TokenBucket
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.block.parser import OPERATION_NAMES, BlockParser
from tests.bench.data_path_bench import step_times_ns

ROUNDS = 5
COUNT = 2_000_000
PLENTY = BucketSettings(tokens=1 << 31, burst=1 << 50)


class Measurement(msgspec.Struct):
    """What was measured, with how many processes, and what one operation took in one of them."""

    name: str
    processes: int
    ns_per_operation: float


def best_ns(body: Callable[[], object], count: int = COUNT) -> float:
    """Nanoseconds of the fastest of ROUNDS calls, each of `count` operations, for one operation."""
    times = []
    for _ in range(ROUNDS):
        begin_ns = time.perf_counter_ns()
        body()
        times.append((time.perf_counter_ns() - begin_ns) / count)
    return min(times)


def median_ns_together(processes: int, body: Callable[[], object]) -> float:
    """Nanoseconds an operation when several processes do COUNT each at once: of the median one."""
    results = mmap.mmap(-1, mmap.PAGESIZE)
    gate_read, gate_write = os.pipe()
    pids = []
    for index in range(processes):
        pid = os.fork()
        if pid == 0:
            os.close(gate_write)
            os.read(gate_read, 1)
            begin_ns = time.perf_counter_ns()
            body()
            struct.pack_into("d", results, 8 * index, (time.perf_counter_ns() - begin_ns) / COUNT)
            os._exit(0)
        pids.append(pid)
    os.close(gate_read)
    os.close(gate_write)
    for pid in pids:
        os.waitpid(pid, 0)
    return float(sorted(struct.unpack_from(f"{processes}d", results))[processes // 2])


def token_bucket() -> list[Measurement]:
    """An acquisition from one bucket, and from a drive's."""
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    bucket, limit = TokenBucket(memory), RateLimit(memory, 1024)

    def draw() -> int:
        return bucket.acquire_many(1, COUNT, 0)

    def draw_read() -> int:
        return limit.acquire_many(READ, 4096, COUNT, 0)

    found = [
        Measurement("bucket, no limit", 1, best_ns(draw)),
        Measurement("read, no limit", 1, best_ns(draw_read)),
    ]
    bucket.configure(PLENTY, 0)
    found.append(Measurement("bucket", 1, best_ns(draw)))
    for processes in (2, 4):
        found.append(Measurement("bucket", processes, median_ns_together(processes, draw)))
    big = BucketSettings(tokens=1 << 40, burst=MAX_TOKENS >> 6)
    for names in (("bytes_total",), ("bytes_total", "ops_total"), BUCKET_NAMES):
        limit.configure(RateLimitSettings(**dict.fromkeys(names, big)), 0)
        found.append(Measurement(f"read, {len(names)} limits", 1, best_ns(draw_read)))
    found.append(Measurement("read, 6 limits", 2, median_ns_together(2, draw_read)))
    return found


def data_path() -> list[Measurement]:
    """One 4 KiB read through every step of the data path, one at a time and in batches of 32."""
    return [
        Measurement(f"batch of {batch_size}: {name}", 1, round(ns, 1))
        for batch_size in (1, 32)
        for name, ns in step_times_ns(batch_size)
    ]


def request_recorder() -> list[Measurement]:
    """Counting a completed request, with times of its own in each of 64 slots."""
    state = StateSegment.create(f"ringblk-bench-{os.getpid()}", 64, 16, "block", OPERATION_NAMES)
    state.open_slots()
    try:
        recorder = RequestRecorder(state, BlockParser(state, GuestMemory(), 512))
        times = random.Random(1)
        for index in range(64):
            wait_ns, service_ns = int(times.lognormvariate(9, 1)), int(times.lognormvariate(11, 1))
            recorder.fill_slot(
                index, operation=1 + index % 2, wait_ns=wait_ns, service_ns=service_ns, length_bytes=4096
            )
        took_ns = best_ns(lambda: recorder.record_many(0, COUNT, 64))
        reading_ns = best_ns(lambda: take_snapshot(state), 1)
    finally:
        state.close()
    return [Measurement("record a request", 1, took_ns), Measurement("take a snapshot", 1, reading_ns)]


BENCHES = {"token_bucket": token_bucket, "data_path": data_path, "request_recorder": request_recorder}


def main() -> None:
    """Run the benches named on the command line, or all."""
    for name in sys.argv[1:] or BENCHES:
        for measurement in BENCHES[name]():
            print(msgspec.json.encode(measurement).decode())


if __name__ == "__main__":
    main()
