"""What a token bucket is set to, in a user's terms and in the terms its arithmetic works with."""

import msgspec

NS_PER_SECOND = 1_000_000_000
RATE_BITS = 32  # rate_units is at most 2**32 a second
FINEST_UNIT_BITS = 20  # a unit is never smaller than 2**-20 of a token
MAX_UNITS = 1 << 60  # of a burst, a one-time burst, a request
MIN_RATE_UNITS = 1000  # the rounding of rate_units stays below 0.1 %
MAX_TOKENS = (1 << 63) - 1


class BucketSettingsError(ValueError):
    """These settings make no bucket: give `field` another value, for the reason told."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class BucketTerms(msgspec.Struct, frozen=True):
    """The settings in units: powers of two of a token (the opening comment of token_bucket.pyx)."""

    rate_units: int
    burst_units: int
    one_time_units: int
    shift_up: int
    shift_down: int
    max_amount: int


UNLIMITED = BucketTerms(0, 0, 0, 0, 0, 0)


class BucketSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A limit of `tokens` (bytes or operations) every `period_ms`; 0 tokens is no limit.

    `burst` is the bucket's size in tokens: how much may be drawn at once after a rest; None is a tenth
    of a second's worth, at least one token. `one_time_burst` tokens are spent first and never refilled.
    """

    tokens: int
    period_ms: int = 1000
    burst: int | None = None
    one_time_burst: int = 0

    @property
    def burst_tokens(self) -> int:
        """The bucket's size with its default worked out."""
        if self.burst is not None:
            return self.burst
        return max(1, self.tokens * 100 // self.period_ms)

    def terms(self) -> BucketTerms:
        """The settings in units; raises BucketSettingsError where they are out of range.

        The rate is rounded down (by less than one part in rate_units), so no limit is ever exceeded.
        """
        _check_range("tokens", self.tokens, 0)
        _check_range("period_ms", self.period_ms, 1)
        if self.tokens == 0:
            return UNLIMITED
        tokens_per_second = self.tokens * 1000 // self.period_ms
        if tokens_per_second > MAX_TOKENS:
            raise BucketSettingsError("tokens", "more than 2**63-1 a second")
        _check_range("burst", self.burst_tokens, 1)
        _check_range("one_time_burst", self.one_time_burst, 0)
        unit_bits = max(tokens_per_second.bit_length() - RATE_BITS, -FINEST_UNIT_BITS)
        shift_up, shift_down = max(-unit_bits, 0), max(unit_bits, 0)
        rate_units = ((self.tokens * 1000 << shift_up) // self.period_ms) >> shift_down
        if rate_units < MIN_RATE_UNITS:
            raise BucketSettingsError("tokens", "slower than one token in a thousand seconds")
        return BucketTerms(
            rate_units=rate_units,
            burst_units=self._to_units("burst", self.burst_tokens, unit_bits),
            one_time_units=self._to_units("one_time_burst", self.one_time_burst, unit_bits),
            shift_up=shift_up,
            shift_down=shift_down,
            max_amount=min(MAX_UNITS << shift_down >> shift_up, MAX_TOKENS),
        )

    def _to_units(self, field: str, tokens: int, unit_bits: int) -> int:
        units = tokens >> unit_bits if unit_bits > 0 else tokens << -unit_bits
        if units > MAX_UNITS:
            most = MAX_UNITS << unit_bits if unit_bits > 0 else MAX_UNITS >> -unit_bits
            raise BucketSettingsError(field, f"{tokens} is years' worth of this rate; at most {most}")
        return units if field == "one_time_burst" else max(units, 1)


def _check_range(field: str, value: int, minimum: int) -> None:
    if not minimum <= value <= MAX_TOKENS:
        raise BucketSettingsError(field, f"{value} is not in {minimum}..2**63-1")
