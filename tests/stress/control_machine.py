"""A state machine: an operator at the control API, a guest's I/O, and a model of what GET / must say."""

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ringblk import RequestStatus
from tests.rigs.control_client import DISK_BYTES, TIMEOUT_S, ControlledEngine
from tests.stress.counts import counts

MAX_BYTES = 2 * DISK_BYTES
BUCKETS = {
    "bps": "bytes_total",
    "bps_read": "bytes_read",
    "bps_write": "bytes_write",
    "iops": "ops_total",
    "iops_read": "ops_read",
    "iops_write": "ops_write",
}
"""The token bucket that each plain limit is kept in."""
RATES = st.none() | st.just(0) | st.integers(1 << 24, 1 << 30)  # never so little that a request waits long
LIMITS = st.dictionaries(st.sampled_from(sorted(BUCKETS)), RATES, min_size=1)
SIZES = st.integers(1, MAX_BYTES // 512).map(lambda sectors: 512 * sectors)
CACHES = st.sampled_from(["writeback", "writethrough", "unsafe"])
WRONG_FIELDS = st.sampled_from(
    [
        {"bps": -1},
        {"bps": "many"},
        {"iops": 1.5},
        {"burst": 5},  # of no limit
        {"cache": "none"},
        {"size_bytes": 0},
        {"size_bytes": 1000},  # no multiple of a block
        {"size_bytes": 1 << 63},
        {"colour": "red"},
        {"rate_limiter": {"ops": {"size": 1}}},
        {"bps": 1 << 30, "rate_limiter": {"ops": {"size": 1 << 30, "refill_time": 1000}}},
    ]
)


def limited_by(description: Any) -> set[str]:
    """The plain limits that hold, however the description gives them back."""
    limits = description["drive"]["limits"]
    if isinstance(limits, dict):
        return {name for name in BUCKETS if limits.get(name)}
    return {name for name, bucket in BUCKETS.items() if bucket in limits}


class ControlMachine(RuleBasedStateMachine):
    """What was changed is what is said, and neither a change nor a refusal costs a byte of the disk."""

    def __init__(self) -> None:
        super().__init__()
        counts["examples"] += 1
        self.folder = tempfile.TemporaryDirectory(prefix="ringblk-")
        self.engine = ControlledEngine(Path(self.folder.name), "--workers=2", "--io-engine=psync")
        self.control = self.engine.control
        self.disk = bytearray(DISK_BYTES)
        self.cache = "writeback"
        self.limits: set[str] = set()
        self.worker_count = 2
        self.is_paused = False
        self.waiting: list[tuple[int, int, bytes]] = []  # token, offset, data

    # The operator.

    def note_drive(self, body: dict[str, Any]) -> None:
        """`PATCH /drive` has succeeded."""
        size_bytes = body.get("size_bytes", len(self.disk))
        del self.disk[size_bytes:]
        self.disk.extend(bytes(size_bytes - len(self.disk)))
        self.cache = body.get("cache", self.cache)
        for name in BUCKETS:
            if name in body:
                self.limits = self.limits | {name} if body[name] else self.limits - {name}

    def may_have(self, size_bytes: int) -> bool:
        """Whether all that waits lies within a disk of this size: what is beyond would fail."""
        return all(offset + len(data) <= size_bytes for _, offset, data in self.waiting)

    @rule(limits=LIMITS)
    def set_limits(self, limits: dict[str, int | None]) -> None:
        self.control.change("/drive", **limits)
        self.note_drive(limits)

    @rule(size_bytes=SIZES)
    def resize(self, size_bytes: int) -> None:
        if self.may_have(size_bytes):
            self.control.change("/drive", size_bytes=size_bytes)
            self.note_drive({"size_bytes": size_bytes})

    @rule()
    def measure(self) -> None:
        """The image is as large as the drive already."""
        self.control.change("/drive", size_bytes="image")

    @rule(limits=LIMITS, size_bytes=SIZES, cache=CACHES)
    def change_all(self, limits: dict[str, int | None], size_bytes: int, cache: str) -> None:
        body = {**limits, "cache": cache} | ({"size_bytes": size_bytes} if self.may_have(size_bytes) else {})
        self.control.change("/drive", **body)
        self.note_drive(body)

    @rule(limits=LIMITS, size_bytes=SIZES, cache=CACHES, wrong=WRONG_FIELDS)
    def change_with_a_mistake(
        self, limits: dict[str, int | None], size_bytes: int, cache: str, wrong: dict[str, Any]
    ) -> None:
        """400, and nothing of it was changed."""
        if "burst" in wrong:
            limits = {}  # any limit beside it would make it right
        body = {"size_bytes": size_bytes, "cache": cache, **limits, **wrong}
        status, answer = self.control.ask("PATCH", "/drive", body)
        assert status == 400, answer
        assert answer["error"]

    @rule(count=st.integers(1, 4))
    def set_workers(self, count: int) -> None:
        self.control.change("/workers", count=count)
        self.worker_count = count

    @rule(count=st.sampled_from([0, -1, 65, 1 << 40, "two", None, 1.5]))
    def set_workers_with_a_mistake(self, count: Any) -> None:
        status, _ = self.control.ask("PATCH", "/workers", {"count": count})
        assert status == 400

    @rule()
    def pause(self) -> None:
        self.control.post("/pause")
        self.is_paused = True

    @rule()
    def resume(self) -> None:
        self.control.post("/resume")
        self.is_paused = False
        self.finish()

    @rule(
        ask=st.sampled_from(
            [("GET", "/nothing", 404), ("POST", "/drive", 405), ("PUT", "/", 405), ("GET", "/pause", 405)]
        )
    )
    def ask_for_nothing(self, ask: tuple[str, str, int]) -> None:
        method, path, expected = ask
        assert self.control.ask_raw(method, path)[0] == expected

    # The guest.

    @rule(place=st.integers(0, MAX_BYTES // 512), num_sectors=st.integers(1, 64), byte=st.integers(0, 255))
    def write(self, place: int, num_sectors: int, byte: int) -> None:
        """Done at once, or when the engine is resumed."""
        size_bytes = min(512 * num_sectors, len(self.disk))
        offset_bytes = 512 * place % (len(self.disk) - size_bytes + 512)
        ends = [(offset, offset + len(data)) for _, offset, data in self.waiting]
        if len(ends) == 8 or any(a < offset_bytes + size_bytes and offset_bytes < b for a, b in ends):
            return
        counts["requests"] += 1
        data = bytes([byte]) * size_bytes
        disk = self.engine.frontend
        disk.refresh_config()
        buffer = disk.allocate(size_bytes)
        buffer.view[:] = data
        self.waiting.append((disk.submit_write(offset_bytes, buffer), offset_bytes, data))
        buffer.release()
        disk.submit()
        if not self.is_paused:
            self.finish()

    def finish(self) -> None:
        for token, offset_bytes, data in self.waiting:
            assert self.engine.frontend.wait(token, TIMEOUT_S).status == RequestStatus.OK
            self.disk[offset_bytes : offset_bytes + len(data)] = data
        self.waiting.clear()

    @precondition(lambda self: not self.is_paused)
    @rule()
    def read_all(self) -> None:
        assert self.engine.frontend.refresh_config().capacity * 512 == len(self.disk)
        assert self.engine.frontend.read(0, len(self.disk)) == self.disk

    # What holds always.

    @invariant()
    def the_description_is_right(self) -> None:
        counts["rules"] += 1
        description = self.control.get()
        drive = description["drive"]
        assert (drive["size_bytes"], drive["cache"]) == (len(self.disk), self.cache)
        assert (description["is_paused"], description["is_connected"]) == (self.is_paused, True)
        assert limited_by(description) == self.limits
        workers = {f"worker {index}" for index in range(self.worker_count)}
        assert set(description["processes"]) == {"supervisor", "dispatcher", *workers}
        assert self.engine.image.stat().st_size == len(self.disk)
        if self.is_paused:
            assert self.engine.frontend.poll(0, 0) == []

    def teardown(self) -> None:
        try:
            self.control.post("/resume")
            self.finish()
            self.engine.frontend.refresh_config()
            assert self.engine.frontend.read(0, len(self.disk)) == self.disk
        finally:
            self.engine.close()
            self.folder.cleanup()


ControlMachine.TestCase.settings = settings(
    max_examples=5,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
