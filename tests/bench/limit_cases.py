"""The cases of scripts/bench_limits: which limit, on what engines, under which load."""

import itertools

import msgspec

from ringblk.engine.load.load import Load

WORKER_COUNTS = (1, 2, 4, 8)
GROUP_SIZE = 3
LOADS = {"read": 100, "write": 0, "mix": 50}
BLOCKS = {"4k": 4096, "1m": 1 << 20}
BYTE_RATES = {"1M": 10**6, "10M": 10**7, "100M": 10**8, "1G": 10**9}
OPERATION_RATES = (100, 1000, 10_000, 50_000)
_OPTIONS = {"read": "_read", "write": "_write", "mix": ""}
# Past these a case says what the machine does and not what the limit does.
_MOST_OPERATIONS = 50_000
_MOST_BYTES = 1.05e9

QUICK = (
    "bps-1M-1m-read-w1",
    "bps-10M-4k-write-w2",
    "bps-100M-4k-mix-w4",
    "bps-1G-1m-read-w8",
    "iops-100-4k-mix-w1",
    "iops-10000-4k-read-w4",
    "iops-50000-4k-read-w1",
    "bps-100M-4k-mix-group3",
    "iops-1000-4k-write-group3",
)


class LimitCase(msgspec.Struct, frozen=True, kw_only=True):
    """One limit under one load. `option` is the engine's (`bps_read`), `rate` in its units a second."""

    name: str
    option: str
    rate: int
    block_bytes: int
    read_percent: int
    workers: int
    engine_count: int

    @property
    def load(self) -> Load:
        """What each engine is loaded with: enough in flight to be always in want of tokens."""
        depth = 32 if self.block_bytes < 1 << 20 else 4
        return Load(block_bytes=self.block_bytes, depth=depth, read_percent=self.read_percent)

    @property
    def tokens_per_request(self) -> int:
        """What a request costs: its bytes, or one operation."""
        return self.block_bytes if self.option.startswith("bps") else 1


def all_cases() -> list[LimitCase]:
    """Every combination that a machine of two cores can carry out at all."""
    rates = [("bps", name, rate) for name, rate in BYTE_RATES.items()]
    rates += [("iops", str(rate), rate) for rate in OPERATION_RATES]
    places = [(f"w{workers}", workers, 1) for workers in WORKER_COUNTS]
    places.append((f"group{GROUP_SIZE}", 1, GROUP_SIZE))
    cases = []
    for (kind, rate_name, rate), block, load, (place, workers, engine_count) in itertools.product(
        rates, BLOCKS, LOADS, places
    ):
        case = LimitCase(
            name=f"{kind}-{rate_name}-{block}-{load}-{place}",
            option=kind + _OPTIONS[load],
            rate=rate,
            block_bytes=BLOCKS[block],
            read_percent=LOADS[load],
            workers=workers,
            engine_count=engine_count,
        )
        operations = rate / case.tokens_per_request
        if operations <= _MOST_OPERATIONS and operations * case.block_bytes <= _MOST_BYTES:
            cases.append(case)
    return cases
