"""Who waits for tokens, for which, and who is next: on a clock of the tests' own."""

import pytest

from ringblk.engine.dispatcher.throttle import Throttle
from ringblk.shm.rates.account import AHEAD_S
from ringblk.shm.rates.bucket_settings import BucketSettings
from ringblk.shm.rates.limit import OTHER, READ, WRITE
from ringblk.shm.rates.limit_settings import RateLimitSettings
from tests.rigs.image_file import MIB
from tests.rigs.rate_rig import NEVER, SECOND, SLOTS, Guest, group_of, one_drive, play

MS = 1_000_000
FAST = BucketSettings(tokens=100_000_000)
SLOW = BucketSettings(tokens=1_000_000)
MANY_OPS = BucketSettings(tokens=1000)
SLOW_OPS = BucketSettings(tokens=10, burst=1)
BYTES_50M = RateLimitSettings(bytes_total=BucketSettings(tokens=50_000_000))


# Which buckets a request waits for


@pytest.mark.parametrize(
    ("settings", "blocked", "free"),
    [
        (RateLimitSettings(bytes_write=SLOW, bytes_read=FAST), WRITE, READ),
        (RateLimitSettings(bytes_read=SLOW, bytes_write=FAST), READ, WRITE),
        (RateLimitSettings(bytes_write=SLOW), WRITE, OTHER),
        (RateLimitSettings(bytes_total=SLOW), READ, OTHER),
        (RateLimitSettings(bytes_total=SLOW, ops_total=MANY_OPS), WRITE, OTHER),
        (RateLimitSettings(bytes_write=SLOW, bytes_total=FAST), WRITE, READ),
        (RateLimitSettings(ops_write=SLOW_OPS, ops_read=MANY_OPS), WRITE, READ),
        (RateLimitSettings(ops_write=SLOW_OPS, ops_total=MANY_OPS), WRITE, READ),
        (RateLimitSettings(ops_write=SLOW_OPS, ops_total=MANY_OPS), WRITE, OTHER),
        (RateLimitSettings(bytes_write=SLOW, ops_total=MANY_OPS), WRITE, READ),
    ],
)
def test_nothing_waits_behind_what_waits_for_another_bucket(
    settings: RateLimitSettings, blocked: int, free: int
) -> None:
    with one_drive(settings) as drive:
        while drive.offer(0, blocked, MIB, 0):
            pass
        for _ in range(4):
            assert not drive.offer(0, blocked, MIB, 0)
            assert drive.offer(0, free, 4096 if free != OTHER else 0, 0)
        assert drive.waiting_in(0) == 5


@pytest.mark.parametrize(
    "settings",
    [
        RateLimitSettings(bytes_total=SLOW),
        RateLimitSettings(ops_total=SLOW_OPS),
        RateLimitSettings(bytes_total=SLOW, bytes_read=FAST, bytes_write=FAST, ops_total=MANY_OPS),
        RateLimitSettings(bytes_total=SLOW, ops_total=SLOW_OPS),
    ],
)
def test_what_draws_from_one_bucket_keeps_its_order_there(settings: RateLimitSettings) -> None:
    """Reads and writes together: a small read does not pass a large write, nor the other way round."""
    lengths = [MIB, 4096, 512, MIB, 4096, 4096, 65536, 512]
    with one_drive(settings) as drive:
        for place, length_bytes in enumerate(lengths):
            drive.offer(0, (READ, WRITE)[place % 2], length_bytes, 0)
        now_ns = 0
        while drive.waiting:
            now_ns += drive.throttle.wait(now_ns)
            drive.run(now_ns)
        assert [length for _, _, _, length in drive.begun] == lengths


def test_a_write_without_write_tokens_takes_no_part_in_the_line_for_the_total() -> None:
    """And once it has them it is not kept out by reads that never end."""
    total = RateLimitSettings(bytes_total=BucketSettings(tokens=10_000_000, burst=65536), bytes_write=SLOW)
    with one_drive(total) as drive:
        reader, writer = Guest(drive, READ, 65536, depth=8), Guest(drive, WRITE, 65536, depth=2)

        def both(guest: Guest, kind: int) -> int:
            return sum(length for _, _, each, length in drive.begun if each == kind)

        now_ns = 0
        while now_ns < 4 * SECOND:
            drive.run(now_ns)
            for guest in (reader, writer):
                waiting = sum(kind == guest.kind for _, kind, _ in drive.waiting.values())
                for _ in range(guest.depth - waiting):
                    drive.offer(0, guest.kind, guest.length_bytes, now_ns)
            now_ns += max(1, drive.throttle.wait(now_ns))
        assert both(writer, WRITE) == pytest.approx(4_000_000, rel=0.06)
        assert both(reader, READ) == pytest.approx(36_000_000, rel=0.02)


def test_who_waits_is_waited_for_when_a_debt_ends() -> None:
    """Whoever looks whether the debt is paid may find it so after the last look at what may begin."""
    with one_drive(RateLimitSettings(bytes_total=SLOW)) as drive:
        assert drive.offer(0, READ, MIB, 0)
        assert not drive.offer(0, READ, MIB, 0)
        assert not drive.offer(1, READ, MIB, 0)
        assert drive.stop(0, 0) == 1
        now_ns = 0
        while drive.throttle.owes(now_ns):
            now_ns += drive.throttle.wait(now_ns)
        assert drive.throttle.wait(now_ns) <= SECOND
        while not drive.run(now_ns):
            now_ns += drive.throttle.wait(now_ns)


def test_a_limit_that_is_lifted_lets_all_go_and_a_new_one_forgets_debts() -> None:
    with one_drive(RateLimitSettings(bytes_total=SLOW)) as drive:
        assert drive.offer(0, READ, 100 * MIB, 0)
        assert not drive.offer(0, READ, MIB, 0)
        assert drive.throttle.credit("bytes_total") < -99 * MIB
        drive.state.rate_limit.configure_some({"bytes_total": FAST}, 0)
        assert drive.run(0) == 1
        assert drive.throttle.credit("bytes_total") == 0
        while drive.offer(0, READ, 100 * MIB, 0):
            pass
        drive.state.rate_limit.configure_some({"bytes_total": None}, 0)
        assert drive.run(0) == 1


# Fair by drive, by queue within a drive


@pytest.mark.parametrize("kind", [READ, WRITE])
def test_a_group_shares_by_drive_not_by_queue(kind: int) -> None:
    settings = RateLimitSettings(ops_total=BucketSettings(tokens=500))
    with group_of(2, settings) as (wide, narrow):
        play([Guest(wide, kind, 4096, queues=8), Guest(narrow, kind, 4096)], 0, 20 * SECOND)
        counts = [len([1 for begun in drive.begun if begun[0] > SECOND]) for drive in (wide, narrow)]
        assert abs(counts[0] - counts[1]) <= 2
        assert sum(counts) == pytest.approx(500 * 19, abs=3)


def test_a_drive_shares_by_queue_whatever_the_sizes() -> None:
    with one_drive(RateLimitSettings(bytes_total=BucketSettings(tokens=10_000_000))) as drive:
        now_ns, sizes = 0, (4096, 65536, MIB)
        while now_ns < 30 * SECOND:
            drive.run(now_ns)
            for queue, size in enumerate(sizes):
                for _ in range(4 - drive.waiting_in(queue)):
                    drive.offer(queue, READ, size, now_ns)
            now_ns += max(1, drive.throttle.wait(now_ns))
        shares = [drive.bytes_begun(5 * SECOND, queue) for queue in range(3)]
        assert max(shares) - min(shares) <= 2 * MIB
        assert sum(shares) == pytest.approx(250_000_000, abs=2 * MIB)


def test_what_a_drive_does_not_use_others_get() -> None:
    with group_of(3, BYTES_50M) as drives:
        idle_half_of_the_time = Guest(drives[0], READ, 65536, depth=1, service_ns=20 * MS)
        play(
            [idle_half_of_the_time, Guest(drives[1], READ, 65536), Guest(drives[2], READ, MIB)],
            0,
            10 * SECOND,
        )
        first, second, third = (drive.bytes_begun(2 * SECOND) for drive in drives)
        assert first > 8 * 65536 * 40  # one every 25 ms at least
        assert first + second + third == pytest.approx(8 * 50_000_000, rel=0.01)
        assert abs(second - third) <= 2 * MIB
        before = drives[1].bytes_begun()
        play([Guest(drives[1], READ, 65536)], 10 * SECOND, 12 * SECOND)
        assert drives[1].bytes_begun() - before >= 0.95 * 100_000_000


# One guest against the others


def test_a_thousand_mebibytes_kept_in_flight_leave_another_drive_its_reads() -> None:
    """3410 reads a second alone, each served in 293 us: with the other beside it, most of them."""
    with group_of(2, BYTES_50M) as (hostile, other):
        huge, small = (
            Guest(hostile, READ, 1000 * MIB, depth=2),
            Guest(other, READ, 4096, depth=1, service_ns=293_000),
        )
        play([huge, small], 0, 25 * SECOND)
        for second in range(25):
            within = [1 for when_ns, *_ in other.begun if when_ns // SECOND == second]
            assert len(within) >= 2400, second
        used = 25 * 50_000_000 - other.bytes_begun()
        assert hostile.bytes_begun() <= used + 5_000_000 + 1000 * MIB  # its own share, the burst, one debt


def test_stops_again_and_again_leave_another_drive_its_half() -> None:
    """What is let go at a stop is the debt of the drive that stops, also when its guest has gone."""
    with group_of(2, BYTES_50M) as (hostile, other):
        guest, fair = Guest(hostile, READ, 20 * MIB, depth=50), Guest(other, READ, 65536)
        for step in range(40):
            play([guest, fair], step * SECOND // 2, (step + 1) * SECOND // 2)
            hostile.stop(0, (step + 1) * SECOND // 2)
        for second in range(1, 20):
            moved = other.bytes_begun(second * SECOND) - other.bytes_begun((second + 1) * SECOND)
            assert moved >= 0.49 * 50_000_000, second
        gone_ns = 20 * SECOND
        play([fair], gone_ns, gone_ns + SECOND)
        assert other.bytes_begun(gone_ns) >= 0.95 * 50_000_000
        # Its half of the time, what waited at the first stop, and that is not paid yet.
        assert hostile.bytes_begun() <= 10 * 50_000_000 + AHEAD_S * 50_000_000 + 2 * 20 * MIB


@pytest.mark.parametrize("queues", [1, 8])
def test_a_debt_is_bounded(queues: int) -> None:
    with one_drive(RateLimitSettings(bytes_total=SLOW)) as drive:
        guest = Guest(drive, WRITE, MIB, queues=queues, depth=SLOTS // queues)
        guest.go_on(0)
        for queue in range(queues):
            drive.stop(queue, 0)
        debt = -drive.throttle.credit("bytes_total")
        assert 0 < debt <= 2 * AHEAD_S * 1_000_000 + queues * MIB
        now_ns = 0
        while drive.throttle.owes(now_ns):
            now_ns += drive.throttle.wait(now_ns)
        assert now_ns == pytest.approx(debt * 1000, rel=1e-6)


def test_what_was_popped_last_goes_back_to_its_ring() -> None:
    with one_drive(RateLimitSettings(bytes_write=SLOW, bytes_read=FAST)) as drive:
        throttle: Throttle = drive.throttle
        kinds = [WRITE, WRITE, WRITE, READ, WRITE, WRITE, WRITE]
        places = [(65532 + slot) % 65536 for slot in range(len(kinds))]
        begun = [throttle.offer(slot, 0, kind, MIB, 0, places[slot]) for slot, kind in enumerate(kinds)]
        assert begun == [slot in (0, 3) for slot in range(len(kinds))]
        assert throttle.unpop(0, places[5]) == -1  # not the last one
        assert [throttle.unpop(0, place) for place in reversed(places[3:])] == [6, 5, 4, -1]
        assert throttle.let_go(0, 0) == [1, 2]


def test_a_successor_goes_on_with_the_debt() -> None:
    with one_drive(RateLimitSettings(bytes_total=SLOW)) as drive:
        drive.offer(0, READ, 10 * MIB, 0)
        assert not drive.offer(0, READ, 10 * MIB, 0)
        assert drive.stop(0, 0) == 1
        successor = Throttle(drive.state, drive.state.rate_limit, False)
        assert successor.owes(0)
        assert successor.credit("bytes_total") == drive.throttle.credit("bytes_total") < -20_000_000
        assert successor.wait(0) != NEVER
        now_ns = 0
        while successor.owes(now_ns):
            now_ns += successor.wait(now_ns)
        assert 20 * SECOND < now_ns < 22 * SECOND


def test_a_rested_drive_lets_no_more_than_its_burst_through() -> None:
    """The credit of a request that went away is not kept."""
    with one_drive(RateLimitSettings(bytes_total=BucketSettings(tokens=1_000_000, burst=100_000))) as drive:
        throttle, now_ns = drive.throttle, 10 * SECOND
        assert throttle.offer(0, 0, READ, 100_000, 0)
        assert not throttle.offer(1, 0, READ, 100_000, 0, 7)
        assert throttle.unpop(0, 7) == 1
        admitted = 0
        while throttle.offer(1, 0, READ, 1000, now_ns, 7):
            admitted += 1000
        assert admitted == 100_000
