"""The token bucket among processes: nothing is lost or invented, and dying changes nothing for others.

Fault model: a process may be killed (SIGKILL) between any two machine instructions of an acquisition, a
refund or a reconfiguration. Its stores up to that instruction are in shared memory, the others never come.
Memory is not corrupted, the clock goes forwards, and one process at a time configures. Here a child is
stepped through the whole operation with ptrace, one instruction at a time, and shared memory is looked at
after each: what it holds at an instruction is what a death at that instruction leaves.
"""

import ctypes
import functools
import mmap
import os
import random
import signal
import struct
from collections.abc import Callable

import pytest

from ringblk.shm.rates.bucket_settings import BucketSettings
from ringblk.shm.rates.limit import READ, RateLimit
from ringblk.shm.rates.limit import STATE_BYTES as LIMIT_BYTES
from ringblk.shm.rates.limit_settings import RateLimitSettings
from ringblk.shm.rates.token_bucket import STATE_BYTES, TokenBucket

PTRACE_TRACEME, PTRACE_SINGLESTEP = 0, 9
COUNTERS_OFFSET = 2048  # results of children, behind the bucket, 8 bytes each
CLOCK_OFFSET = 4000
STOP_OFFSET = 4008
PROCESSES = 4

libc = ctypes.CDLL(None, use_errno=True)


def fork(body: Callable[[], None]) -> int:
    """Run `body` in a child; the child's exit status is 0 if it returns."""
    pid = os.fork()
    if pid:
        return pid
    try:
        body()
        os._exit(0)
    finally:
        os._exit(1)


def join(pids: list[int]) -> None:
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * len(pids)


def put(memory: mmap.mmap, offset: int, value: int) -> None:
    struct.pack_into("=Q", memory, offset, value)


def get(memory: mmap.mmap, offset: int) -> int:
    value: int = struct.unpack_from("=Q", memory, offset)[0]
    return value


def run_together(memory: mmap.mmap, body: Callable[[int], int]) -> list[int]:
    """Run body(index) in several processes that begin together; return what each returned."""
    gate_read, gate_write = os.pipe()

    def run(index: int) -> None:
        os.close(gate_write)
        os.read(gate_read, 1)  # end of file: the gate opens for all at once
        put(memory, COUNTERS_OFFSET + 8 * index, body(index))

    pids = [fork(functools.partial(run, index)) for index in range(PROCESSES)]
    os.close(gate_read)
    os.close(gate_write)
    join(pids)
    return [get(memory, COUNTERS_OFFSET + 8 * index) for index in range(PROCESSES)]


def drain(bucket: TokenBucket, now_ns: int, burst: int) -> int:
    """Draw all there is, and say how much it was. No amount is larger than the bucket: no debt."""
    amount, total = burst, 0
    while amount:
        if bucket.acquire(amount, now_ns) == 0:
            total += amount
        else:
            amount >>= 1
    return total


@pytest.fixture
def memory() -> mmap.mmap:
    return mmap.mmap(-1, mmap.PAGESIZE)


def test_processes_draw_exactly_what_there_is(memory: mmap.mmap) -> None:
    bucket = TokenBucket(memory)
    bucket.configure(BucketSettings(tokens=1000, burst=15_000_000, one_time_burst=5_000_000), 0)
    counts = run_together(memory, lambda _: bucket.acquire_many(1, 1 << 62, 0))
    assert sum(counts) == 20_000_000
    assert bucket.acquire(1, 0) == 1_000_000


def test_processes_draw_exactly_what_a_moving_clock_refills(memory: mmap.mmap) -> None:
    bucket, end_ns = TokenBucket(memory), 10**9
    bucket.configure(BucketSettings(tokens=123_457, burst=1 << 20), 0)
    drained = drain(bucket, 0, 1 << 20)

    def draw_as_time_passes(index: int) -> int:
        total, chance = 0, random.Random(index)
        while (now_ns := get(memory, CLOCK_OFFSET)) < end_ns:
            if index == 0:
                put(memory, CLOCK_OFFSET, min(now_ns + chance.randrange(40_000), end_ns))
            amount = chance.randrange(1, 9)
            total += amount if bucket.acquire(amount, now_ns) == 0 else 0
        return total

    total = sum(run_together(memory, draw_as_time_passes))
    assert total > 0
    assert drained + total + drain(bucket, end_ns, 1 << 20) == (1 << 20) + 123_457


def test_refunds_among_processes_lose_and_invent_nothing(memory: mmap.mmap) -> None:
    bucket = TokenBucket(memory)
    bucket.configure(BucketSettings(tokens=1, burst=1 << 20), 0)

    def draw_keep_or_refund(index: int) -> int:
        kept, chance = 0, random.Random(index)
        for _ in range(20_000):
            amount = chance.randrange(1, 50)
            if bucket.acquire(amount, 0) == 0:
                if chance.random() < 0.25:
                    kept += amount
                else:
                    bucket.refund()
        return kept

    assert sum(run_together(memory, draw_keep_or_refund)) + drain(bucket, 0, 1 << 20) == 1 << 20


def test_settings_change_under_the_hands_of_those_who_draw(memory: mmap.mmap) -> None:
    bucket, changes = TokenBucket(memory), 6002
    # As different as they can be, the unit included; each has its own waiting time for one token more.
    all_settings = [
        BucketSettings(tokens=7, burst=3),
        BucketSettings(tokens=1 << 62, burst=1 << 55),
        BucketSettings(tokens=1000, burst=20, one_time_burst=5),
    ]
    bucket.configure(all_settings[0], 0)

    def check_every_answer(index: int) -> int:
        if index == 0:
            for change in range(1, changes + 1):
                bucket.configure(all_settings[change % 3], 0)
            put(memory, STOP_OFFSET, 1)
            return 0
        seen, own = set(), 0
        while not get(memory, STOP_OFFSET):
            wait_ns = bucket.acquire(1, 0)
            seen.add(wait_ns)
            own += wait_ns == 0
        # 0; one token at 7/s; one at 2^62/s; one at 1000/s.
        assert seen <= {0, 142_857_143, 1, 1_000_000}, seen
        return own

    run_together(memory, check_every_answer)
    assert drain(bucket, 0, 20) <= 25  # the last settings were all_settings[2]
    bucket.configure(all_settings[2], 0)
    assert drain(bucket, 0, 20) == 25


def snapshots_of(memory: mmap.mmap, size_bytes: int, operation: Callable[[], object]) -> list[bytes]:
    """Step a child through `operation`; return the states that shared memory goes through, in order."""

    def stepped() -> None:
        libc.ptrace(PTRACE_TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        operation()
        os.kill(os.getpid(), signal.SIGKILL)

    pid = fork(stepped)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSTOPPED(status), "the child could not be traced"
    states = [memory[:size_bytes]]
    while os.WIFSTOPPED(status):
        if memory[:size_bytes] != states[-1]:
            states.append(memory[:size_bytes])
        assert libc.ptrace(PTRACE_SINGLESTEP, pid, None, None) == 0
        _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    return states


def test_a_death_anywhere_in_an_acquisition_leaves_it_made_or_not_made(memory: mmap.mmap) -> None:
    bucket = TokenBucket(memory)
    bucket.configure(BucketSettings(tokens=1000, burst=100, one_time_burst=20), 0)
    states = snapshots_of(memory, STATE_BYTES, lambda: bucket.acquire(70, 5))
    assert len(states) == 2
    for state, left in zip(states, (120, 50), strict=True):
        memory[:STATE_BYTES] = state
        assert drain(bucket, 5, 100) == left
        assert bucket.acquire(1, 5) == 1_000_000  # the clock goes on as if nothing had been


def test_a_death_anywhere_in_a_refusal_changes_nothing(memory: mmap.mmap) -> None:
    bucket = TokenBucket(memory)
    bucket.configure(BucketSettings(tokens=1000, burst=100), 0)
    assert bucket.acquire(90, 0) == 0
    assert len(snapshots_of(memory, STATE_BYTES, lambda: bucket.acquire(11, 0))) == 1


def test_a_death_anywhere_in_a_refund_leaves_it_made_or_not_made(memory: mmap.mmap) -> None:
    bucket, other = TokenBucket(memory), TokenBucket(memory)
    bucket.configure(BucketSettings(tokens=1000, burst=100), 0)
    assert bucket.acquire(70, 0) == 0
    assert other.acquire(10, 0) == 0
    states = snapshots_of(memory, STATE_BYTES, bucket.refund)
    assert len(states) == 2
    for state, left in zip(states, (20, 90), strict=True):
        memory[:STATE_BYTES] = state
        assert drain(bucket, 0, 100) == left


def test_a_death_anywhere_in_configuring_leaves_the_old_settings_or_the_new(memory: mmap.mmap) -> None:
    bucket = TokenBucket(memory)
    bucket.configure(BucketSettings(tokens=1000, burst=100), 0)
    assert bucket.acquire(70, 0) == 0
    states = snapshots_of(
        memory, STATE_BYTES, lambda: bucket.configure(BucketSettings(tokens=1 << 40, burst=1 << 36), 0)
    )
    assert len(states) > 5  # the new terms come in store by store
    for state in states:
        memory[:STATE_BYTES] = state
        is_new = state is states[-1]
        assert drain(bucket, 0, 1 << 36 if is_new else 100) == (1 << 36 if is_new else 30)
        bucket.configure(BucketSettings(tokens=10, burst=5), 0)  # and may be configured again
        assert drain(bucket, 0, 5) == 5


def test_a_death_anywhere_in_drawing_from_several_leaves_each_usable(memory: mmap.mmap) -> None:
    limit = RateLimit(memory)
    ten = BucketSettings(tokens=10, burst=10)
    limit.configure(RateLimitSettings(bytes_total=ten, bytes_read=ten, ops_read=ten), 0)
    states = snapshots_of(memory, LIMIT_BYTES, lambda: limit.acquire(READ, 4, 0))
    assert len(states) == 4  # one swap for each of the three
    for drawn, state in enumerate(states):
        memory[:LIMIT_BYTES] = state
        # Never more than a full set: 10 bytes; what was drawn is spent, as by a request that had begun.
        assert [limit.acquire(READ, 5, 0) == 0 for _ in range(2)] == [True, drawn == 0]
        assert limit.acquire(READ, 5, 10**9) == 0
