"""The token bucket against an exact rational model, on a virtual clock."""

import mmap
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ringblk.shm.rates.bucket_settings import MAX_TOKENS, NS_PER_SECOND, BucketSettings, BucketSettingsError
from ringblk.shm.rates.token_bucket import ALIGN_BYTES, NEVER, STATE_BYTES, TokenBucket

steady = settings(deadline=None, derandomize=True)
YEAR_NS = 365 * 86400 * NS_PER_SECOND


class Model:
    """The same bucket in fractions; it is told what was admitted and says what may be."""

    def __init__(self, setting: BucketSettings, start_ns: int) -> None:
        self.rate = Fraction(setting.tokens * 1000, setting.period_ms * NS_PER_SECOND)
        self.burst = setting.burst_tokens
        self.one_time = setting.one_time_burst
        self.start_ns = start_ns
        self.spent = Fraction(0)
        terms = setting.terms()
        self.unit = Fraction(1 << terms.shift_down, 1 << terms.shift_up)

    def fill(self, now_ns: int) -> Fraction:
        return self.rate * (now_ns - self.start_ns)

    def spare(self, amount: int, now_ns: int) -> Fraction:
        """What is left above what `amount` needs; negative: too little."""
        if self.one_time:
            return Fraction(self.burst)
        return self.fill(now_ns) + self.burst - self.spent - min(amount, self.burst)

    def draw(self, amount: int, now_ns: int) -> None:
        once = min(amount, self.one_time)
        self.one_time -= once
        if amount > once:
            self.spent = max(self.spent, self.fill(now_ns)) + amount - once


def make_bucket(setting: BucketSettings | None, now_ns: int = 0) -> TokenBucket:
    bucket = TokenBucket(mmap.mmap(-1, mmap.PAGESIZE), 64)
    bucket.configure(setting, now_ns)
    return bucket


@st.composite
def exact_settings(draw: st.DrawFn) -> BucketSettings:
    """Rates of which a token is a whole number of units."""
    tokens = draw(st.integers(1, 1 << 31) | st.sampled_from([1, 3, 7, 1000, 1 << 20, 1 << 31]))
    period_ms = draw(
        st.sampled_from([1000, 1, 7, 100, 3000, 60_000]).filter(lambda p: tokens * 1000 // p < 1 << 32)
    )
    burst = draw(st.none() | st.integers(1, 1 << 33))
    return BucketSettings(
        tokens=tokens,
        period_ms=period_ms,
        burst=burst,
        one_time_burst=draw(st.sampled_from([0, 0, 1, 5000, 1 << 32])),
    )


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[int, int, str]]:
    """Pauses before, amounts relative to the bucket (per mille), and what to do when refused."""
    pause = st.sampled_from([0, 0, 1, 999, 10**6, 10**9, 10**11]) | st.integers(0, 10**10)
    one = st.tuples(pause, st.integers(0, 3000), st.sampled_from(["wait", "leave"]))
    return draw(st.lists(one, min_size=1, max_size=40))


@steady
@given(exact_settings(), steps(), st.sampled_from([0, 5, YEAR_NS]))
def test_agrees_with_the_model_to_a_unit(
    setting: BucketSettings, actions: list[tuple[int, int, str]], start_ns: int
) -> None:
    bucket, model, now_ns = make_bucket(setting, start_ns), Model(setting, start_ns), start_ns
    for pause_ns, per_mille, when_refused in actions:
        now_ns += pause_ns
        amount = max(1, setting.burst_tokens * per_mille // 1000)
        spare = model.spare(amount, now_ns)
        wait_ns = bucket.acquire(amount, now_ns)
        if wait_ns == NEVER:
            break
        if wait_ns == 0:
            assert spare > -model.unit
        else:
            assert spare < model.unit
            assert bucket.acquire(amount, now_ns + wait_ns - 1) == 1
            if when_refused == "leave":
                continue
            now_ns += wait_ns
            assert bucket.acquire(amount, now_ns) == 0
        model.draw(amount, now_ns)


@steady
@given(exact_settings(), steps())
def test_no_window_holds_more_than_burst_and_rate_and_debt(
    setting: BucketSettings, actions: list[tuple[int, int, str]]
) -> None:
    bucket, rate, now_ns = make_bucket(setting), Model(setting, 0).rate, 0
    admitted: list[tuple[int, int]] = []
    for pause_ns, per_mille, when_refused in actions:
        now_ns += pause_ns
        amount = max(1, setting.burst_tokens * per_mille // 1000)
        wait_ns = bucket.acquire(amount, now_ns)
        if wait_ns != 0 and (when_refused == "leave" or wait_ns == NEVER):
            continue
        if wait_ns != 0:
            now_ns += wait_ns
            assert bucket.acquire(amount, now_ns) == 0
        admitted.append((now_ns, amount))
    for first in range(len(admitted)):
        total = 0
        for when_ns, amount in admitted[first:]:
            total += amount
            bound = setting.burst_tokens + setting.one_time_burst + rate * (when_ns - admitted[first][0])
            assert total <= bound + max(0, amount - setting.burst_tokens) + 1


@steady
@given(st.integers(0, 63), st.floats(1, 2), st.integers(1, 2000), st.sampled_from([1000, 1, 999, 86_400_000]))
@example(63, 1.0, 100, 1000)
@example(0, 1.0, 100, 1000)
def test_a_greedy_drawer_gets_the_rate_within_a_thousandth(
    exponent: int, mantissa: float, per_mille: int, period_ms: int
) -> None:
    tokens = min(int(2**exponent * mantissa), MAX_TOKENS)
    tokens = min(max(tokens, period_ms // 1000), MAX_TOKENS * period_ms // 1000)
    setting = BucketSettings(tokens=tokens, period_ms=period_ms)
    rate = Fraction(tokens * 1000, period_ms * NS_PER_SECOND)
    amount = max(1, setting.burst_tokens * per_mille // 1000)
    bucket, now_ns, total = make_bucket(setting), 0, 0
    assert bucket.acquire(setting.burst_tokens, 0) == 0
    for _ in range(3000):
        now_ns += bucket.wait_ns(amount, now_ns)
        assert bucket.acquire(amount, now_ns) == 0
        total += amount
        assert total <= rate * now_ns + max(0, amount - setting.burst_tokens)
    assert total >= rate * now_ns * Fraction(999, 1000)


def test_small_amounts_over_a_long_window_do_not_drift() -> None:
    # 4 KiB at 10 GB/s is 409.6 ns: whole nanoseconds would be 0.1 % off.
    bucket, now_ns, count = make_bucket(BucketSettings(tokens=10**10, burst=4096)), 0, 200_000
    for _ in range(count):
        now_ns += bucket.wait_ns(4096, now_ns)
        bucket.acquire(4096, now_ns)
    # A full bucket is asked for each time, so waiting for the next whole nanosecond is lost, and no more.
    assert now_ns == pytest.approx(count * 410, rel=1e-4)
    bucket, now_ns = make_bucket(BucketSettings(tokens=10**10, burst=8192)), 0
    for _ in range(count):
        now_ns += bucket.wait_ns(4096, now_ns)
        bucket.acquire(4096, now_ns)
    assert now_ns == pytest.approx(count * 409.6, rel=1e-4)


def test_one_time_burst_is_spent_first_and_never_refilled() -> None:
    bucket = make_bucket(BucketSettings(tokens=1000, burst=100, one_time_burst=50))
    assert bucket.acquire(50, YEAR_NS) == 0  # the one-time burst alone
    assert bucket.acquire(100, YEAR_NS) == 0  # the bucket is still full
    assert bucket.acquire(1, YEAR_NS) == 1_000_000
    later_ns = 2 * YEAR_NS
    assert bucket.acquire(100, later_ns) == 0
    assert bucket.acquire(1, later_ns) == 1_000_000


def test_what_is_larger_than_the_bucket_waits_until_it_is_full_and_leaves_a_debt() -> None:
    bucket = make_bucket(BucketSettings(tokens=1000, burst=100))
    assert bucket.acquire(1, 0) == 0
    assert bucket.acquire(1100, 0) == 1_000_000
    assert bucket.acquire(1100, 1_000_000) == 0
    assert bucket.acquire(1, 1_000_000) == 1_001_000_000  # 1000 of debt, and one
    assert bucket.acquire(100, 1_000_000) == 1_100_000_000


def test_no_settings_is_no_limit() -> None:
    bucket = TokenBucket(mmap.mmap(-1, mmap.PAGESIZE))
    assert not bucket.is_limited
    assert all(bucket.acquire(amount, 0) == 0 for amount in (0, 1, MAX_TOKENS, 2**64 - 1))
    bucket.configure(BucketSettings(tokens=1, burst=1), 0)
    assert bucket.is_limited
    assert [bucket.acquire(1, 0) for _ in range(2)] == [0, NS_PER_SECOND]
    bucket.configure(None, 0)
    assert bucket.acquire(MAX_TOKENS, 0) == 0


def test_nothing_wanted_never_waits() -> None:
    bucket = make_bucket(BucketSettings(tokens=1000, burst=1))
    assert bucket.acquire(1000, 0) == 0
    assert bucket.acquire(0, 0) == 0


@steady
@given(exact_settings(), st.integers(0, 2), st.integers(1, 10**6))
def test_configuring_begins_a_full_bucket(setting: BucketSettings, times: int, now_ns: int) -> None:
    bucket = make_bucket(BucketSettings(tokens=1, burst=1, one_time_burst=1))
    for _ in range(times):
        bucket.acquire(1 << 40, 0)
        bucket.configure(BucketSettings(tokens=77), now_ns)
    bucket.configure(setting, now_ns)
    # A clock read just before the bucket was configured counts as its start.
    assert bucket.acquire(setting.one_time_burst, now_ns - 1) == 0
    assert bucket.acquire(setting.burst_tokens, now_ns - 1) == 0
    assert bucket.acquire(1, now_ns - 1) == bucket.acquire(1, now_ns) + 1 > 1


@steady
@given(exact_settings(), st.lists(st.integers(1, 1 << 34), min_size=1, max_size=5), st.integers(0, 10**10))
def test_a_refund_leaves_the_bucket_as_it_was(
    setting: BucketSettings, amounts: list[int], now_ns: int
) -> None:
    bucket, twin = make_bucket(setting), make_bucket(setting)
    for amount in amounts:
        assert bucket.acquire(amount, now_ns) == twin.acquire(amount, now_ns)
        if bucket.acquire(amount, now_ns) == 0:
            bucket.refund()
            bucket.refund()
    probes = [1, setting.burst_tokens, setting.one_time_burst or 1]
    assert [bucket.wait_ns(probe, now_ns) for probe in probes] == [
        twin.wait_ns(probe, now_ns) for probe in probes
    ]


def test_a_refund_after_another_draw_gives_back_what_was_drawn() -> None:
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    one, other = TokenBucket(memory), TokenBucket(memory)
    one.configure(BucketSettings(tokens=1000, burst=100), 0)
    assert one.acquire(60, 0) == 0
    assert other.acquire(30, 0) == 0
    one.refund()
    assert other.acquire(70, 0) == 0
    assert other.acquire(1, 0) > 0


@pytest.mark.parametrize("changes", [1, 2])  # after two the same set of terms is in use again
def test_a_refund_of_what_was_drawn_under_other_settings_gives_nothing(changes: int) -> None:
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    bucket, other = TokenBucket(memory), TokenBucket(memory)
    bucket.configure(BucketSettings(tokens=1000, burst=100), 0)
    assert bucket.acquire(60, 0) == 0
    for _ in range(changes):
        bucket.configure(BucketSettings(tokens=1000, burst=100), 0)
    assert other.acquire(60, 0) == 0
    bucket.refund()
    assert bucket.acquire(40, 0) == 0
    assert bucket.acquire(1, 0) == 1_000_000


def test_reservations_begin_in_order_and_at_the_rate() -> None:
    bucket = make_bucket(BucketSettings(tokens=1000, burst=100))
    begin_ns = [bucket.reserve(amount, 0) for amount in (100, 10, 500, 1, 1)]
    ms = 1_000_000
    # 10 more after 10 ms; 500 when the bucket would be full; then its debt of 400 and one token.
    assert begin_ns == [0, 10 * ms, 110 * ms, 511 * ms, 512 * ms]
    assert bucket.acquire(1, 512 * ms) == ms
    bucket.refund()  # the last reservation
    assert bucket.acquire(1, 512 * ms) == 0


@steady
@given(exact_settings(), st.integers(1, 1 << 34))
def test_a_reservation_waits_exactly_as_long_as_an_acquisition_would(
    setting: BucketSettings, amount: int
) -> None:
    bucket = make_bucket(setting)
    bucket.acquire(setting.one_time_burst + setting.burst_tokens, 0)
    wait_ns = bucket.wait_ns(amount, 0)
    assert bucket.reserve(amount, 0) == wait_ns
    if wait_ns == NEVER:
        return
    bucket.refund()
    assert bucket.acquire(amount, wait_ns) == 0


@steady
@given(
    st.sampled_from([1, 2, 2**31, 2**32 - 1, 2**32, 2**33 + 1, 2**62, MAX_TOKENS]),
    st.sampled_from([1, 1000, MAX_TOKENS]),
    st.sampled_from([0, YEAR_NS, 33 * YEAR_NS, 34 * YEAR_NS, 40 * YEAR_NS, 2**63, 2**64 - 1]),
    st.sampled_from([1, 4096, 2**40, MAX_TOKENS, 2**64 - 1]),
    st.booleans(),
)
def test_extremes_neither_overflow_nor_invent(
    tokens: int, period_ms: int, idle_ns: int, amount: int, once: bool
) -> None:
    setting = BucketSettings(tokens=tokens, period_ms=period_ms)
    try:
        terms = setting.terms()
    except BucketSettingsError:
        assert not Fraction(1, 500) < Fraction(tokens * 1000, period_ms) <= MAX_TOKENS
        return
    most = ((1 << 60) << terms.shift_down) >> terms.shift_up
    setting = BucketSettings(
        tokens=tokens,
        period_ms=period_ms,
        burst=min(most, MAX_TOKENS),
        one_time_burst=min(most, MAX_TOKENS) * once,
    )
    bucket, model = make_bucket(setting), Model(setting, 0)
    total = 0
    for now_ns in (0, idle_ns):
        for _ in range(4):
            if bucket.acquire(amount, now_ns) == 0:
                # The largest amount that is charged, see the opening comment.
                total += min(amount, terms.max_amount)
        debt = max(0, min(amount, terms.max_amount) - setting.burst_tokens)
        assert total <= setting.burst_tokens + setting.one_time_burst + model.rate * now_ns + debt
    assert bucket.acquire(min(amount, setting.burst_tokens), 2**64 - 1) in {0, NEVER}


@steady
@given(st.integers(1, 2**63 - 1), st.sampled_from([1, 5, 20, 33]))
def test_a_bucket_is_full_and_no_more_after_years_of_rest(tokens: int, years: int) -> None:
    setting = BucketSettings(tokens=tokens)
    bucket, now_ns = make_bucket(setting), years * YEAR_NS + 12345
    assert bucket.acquire(setting.burst_tokens, 0) == 0
    assert bucket.acquire(setting.burst_tokens, now_ns) == 0
    assert bucket.acquire(setting.burst_tokens, now_ns) > 0
    assert bucket.acquire(max(1, tokens // 1000), now_ns) > 0


def test_after_34_years_nothing_is_refilled() -> None:
    bucket, end_ns = make_bucket(BucketSettings(tokens=1000, burst=10)), 2**30 * NS_PER_SECOND
    assert bucket.acquire(10, end_ns) == 0
    assert bucket.acquire(1, end_ns + YEAR_NS) == NEVER
    assert bucket.reserve(1, end_ns + YEAR_NS) == NEVER


@pytest.mark.parametrize(
    ("setting", "field"),
    [
        (BucketSettings(tokens=-1), "tokens"),
        (BucketSettings(tokens=2**63), "tokens"),
        (BucketSettings(tokens=1, period_ms=0), "period_ms"),
        (BucketSettings(tokens=1, period_ms=2_000_000), "tokens"),
        (BucketSettings(tokens=2**62, period_ms=1), "tokens"),
        (BucketSettings(tokens=1, burst=0), "burst"),
        (BucketSettings(tokens=1, burst=1 << 41), "burst"),
        (BucketSettings(tokens=1, one_time_burst=-1), "one_time_burst"),
        (BucketSettings(tokens=1, one_time_burst=1 << 41), "one_time_burst"),
    ],
)
def test_settings_out_of_range_name_their_field(setting: BucketSettings, field: str) -> None:
    bucket = make_bucket(None)
    with pytest.raises(BucketSettingsError) as caught:
        bucket.configure(setting, 0)
    assert caught.value.field == field
    assert not bucket.is_limited


def test_lies_in_its_buffer_aligned_and_whole() -> None:
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    TokenBucket(memory, mmap.PAGESIZE - STATE_BYTES)
    for offset_bytes in (8, ALIGN_BYTES - 1, mmap.PAGESIZE - STATE_BYTES + ALIGN_BYTES, mmap.PAGESIZE + 64):
        with pytest.raises(ValueError, match="a token bucket"):
            TokenBucket(memory, offset_bytes)
    with pytest.raises(BufferError):
        TokenBucket(b"\0" * 4096)
