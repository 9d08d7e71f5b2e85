"""A state machine: a hostile guest, a front end without manners, an operator and a killer, all at once.

The fault model: the guest sends requests of any shape and type, good and bad, on several queues, and writes
what no driver may into its rings. The front end takes memory away and gives it back, stops and starts rings,
resets, hangs up. The operator changes limits, cache mode and workers. SIGKILL takes any process of the engine
at any time, or at a named step. Whatever comes of it, each request is answered once, as it must be; no byte
of guest memory is written but those it gave; and the disk holds what was reported done.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.crash.crash_points import point_names
from tests.rigs.inline_device import DISCARD, FLUSH, GET_ID, IN, OUT, WRITE_ZEROES
from tests.stress.counts import counts
from tests.stress.hostile_guest import CORRUPTIONS, MAX_SECTORS, HostileGuest
from tests.stress.request_shape import Shape
from tests.stress.stress_engine import KINDS, NUM_SECTORS, Kind, StressEngine
from tests.stress.stress_request import BAD_ASKS, good_ask

POINTS = sorted(
    {*point_names("engine/dispatcher", "engine/zygote", "workers/process", "shm/queues", "shm/sync")}
)
"""Whoever dies elsewhere is the control plane: with the dispatcher it takes the session along."""
QUEUES = st.integers(0, 3)
REGIONS = st.integers(1, 7)
TYPES = st.sampled_from([IN, IN, OUT, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES])
SHAPES = st.builds(
    Shape,
    cuts=st.lists(st.integers(1, 9000) | st.integers(1, 40), max_size=8).map(tuple),
    direct_count=st.none() | st.integers(0, 3),
    gap_bytes=st.integers(0, 9),
)
DRIVES = st.sampled_from(
    [
        {"bps": 4 << 20},
        {"bps_read": 8 << 20, "iops_write": 2000},
        {"iops": 1000, "iops_burst": 5},
        {"bps": None, "iops": None, "bps_read": None, "iops_write": None},
        {"cache": "writethrough"},
        {"cache": "writeback"},
        {"cache": "unsafe"},
    ]
)


first_failure: list[str] = []
"""The steps of the first example that failed, and the engine's log."""


class GuestMachine(RuleBasedStateMachine):
    """One front end's life on one engine and its successors."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="ringblk-"))
        self.guest: HostileGuest | None = None
        self.engine: StressEngine | None = None
        self.steps: list[str] = []
        counts["examples"] += 1

    @initialize(
        kind=st.sampled_from(KINDS),
        queue_size=st.sampled_from([4, 16, 128]),
        event_idx=st.booleans(),
        start_idx=st.sampled_from([0, 0xFFF0]),
        seed=st.integers(0, 1 << 16),
    )
    def begin(self, kind: Kind, queue_size: int, event_idx: bool, start_idx: int, seed: int) -> None:
        self.note_step(sys._getframe())
        self.engine = StressEngine(self.folder, kind)
        self.guest = HostileGuest(
            self.engine, queue_size=queue_size, event_idx=event_idx, start_idx=start_idx, seed=seed
        )

    def parts(self, queue: int = 0) -> Any:
        """The guest and one of its queues, for a rule that begins."""
        assert self.guest is not None
        counts["rules"] += 1
        self.note_step(sys._getframe(1))
        return self.guest, self.guest.queues[queue % len(self.guest.queues)]

    def note_step(self, frame: FrameType) -> None:
        """Keep what a rule was called with: what a race has done need not come again to be shown."""
        names = frame.f_code.co_varnames[1 : frame.f_code.co_argcount]
        values = ", ".join(f"{name}={frame.f_locals[name]!r}" for name in names)
        self.steps.append(f"state.{frame.f_code.co_name}({values})")

    # The guest.

    @rule(
        queue=QUEUES,
        request_type=TYPES,
        sector=st.integers(0, NUM_SECTORS - 1),
        num_sectors=st.integers(0, MAX_SECTORS),
        flags=st.integers(0, 1),
        shape=SHAPES,
        kicks=st.booleans(),
        repeat=st.integers(1, 4),
    )
    def request(
        self,
        queue: int,
        request_type: int,
        sector: int,
        num_sectors: int,
        flags: int,
        shape: Shape,
        kicks: bool,
        repeat: int,
    ) -> None:
        """Requests as a correct driver may send them, one after the other on neighbouring sectors."""
        guest, chosen = self.parts(queue)
        for number in range(repeat):
            start = (sector + number * num_sectors) % NUM_SECTORS
            count = min(num_sectors, NUM_SECTORS - start)
            guest.send(chosen, good_ask(request_type, start, count, guest.new_stamp(), flags), shape)
        if kicks:
            chosen.kick()

    @rule(queue=QUEUES, kind=st.sampled_from(sorted(BAD_ASKS)), shape=SHAPES)
    def bad_request(self, queue: int, kind: str, shape: Shape) -> None:
        """A request that must be refused."""
        guest, chosen = self.parts(queue)
        guest.send(chosen, BAD_ASKS[kind](NUM_SECTORS), shape)
        chosen.kick()

    @rule(queue=QUEUES, request_type=TYPES, sector=st.integers(0, NUM_SECTORS - 4), shape=SHAPES)
    def bad_address(self, queue: int, request_type: int, sector: int, shape: Shape) -> None:
        """A request whose first descriptor names memory that is not there."""
        guest, chosen = self.parts(queue)
        guest.send(chosen, good_ask(request_type, sector, 4, guest.new_stamp()), shape, outside=True)
        chosen.kick()

    @rule(queue=QUEUES)
    def finish(self, queue: int) -> None:
        """Wait for all that is in flight on a queue."""
        guest, chosen = self.parts(queue)
        guest.finish(chosen)

    @rule(queue=QUEUES, how=st.sampled_from(CORRUPTIONS))
    def corrupt(self, queue: int, how: str) -> None:
        """The queue breaks; the others and the engine go on."""
        guest, chosen = self.parts(queue)
        guest.corrupt(chosen, how)
        guest.prove_alive()

    # The front end.

    @rule(region=REGIONS)
    def remove_region(self, region: int) -> None:
        guest, _ = self.parts()
        guest.remove_region(region % guest.num_regions or 1)

    @rule(region=REGIONS)
    def add_region(self, region: int) -> None:
        guest, _ = self.parts()
        guest.add_region(region % guest.num_regions or 1)

    @rule()
    def replace_memory(self) -> None:
        guest, _ = self.parts()
        guest.replace_memory()

    @rule(queue=QUEUES)
    def stop_and_start(self, queue: int) -> None:
        guest, chosen = self.parts(queue)
        guest.stop_and_start(chosen)

    @rule(queue=QUEUES)
    def restart_queue(self, queue: int) -> None:
        guest, chosen = self.parts(queue)
        guest.restart_queue(chosen)

    @rule(queue=QUEUES, enabled=st.booleans())
    def set_enabled(self, queue: int, enabled: bool) -> None:
        guest, chosen = self.parts(queue)
        guest.set_enabled(chosen, enabled)

    @rule(idx=st.sampled_from([0, 5, 0xFFFE]))
    def reset(self, idx: int) -> None:
        guest, _ = self.parts()
        guest.reset_device(idx)

    @rule(idx=st.sampled_from([0, 5, 0xFFFE]))
    def hang_up(self, idx: int) -> None:
        guest, _ = self.parts()
        guest.connect_anew(idx)

    # The operator.

    @rule(drive=DRIVES)
    def change_drive(self, drive: dict[str, object]) -> None:
        guest, _ = self.parts()
        guest.engine.control.change("/drive", **drive)

    @rule(count=st.integers(1, 5))
    def change_workers(self, count: int) -> None:
        guest, _ = self.parts()
        if guest.engine.kind.has_workers:
            guest.engine.control.change("/workers", count=count)

    @rule()
    def pause_and_resume(self) -> None:
        guest, _ = self.parts()
        guest.engine.control.post("/pause")
        guest.engine.control.post("/resume")

    # The killer.

    @rule(role=st.sampled_from(["dispatcher", "worker-0", "worker-1", "worker-4"]))
    def kill(self, role: str) -> None:
        guest, _ = self.parts()
        guest.prove_alive()  # an engine that gets nothing done between deaths gives up, and may
        counts["kills"] += guest.engine.kill(role)

    @rule(deaths=st.lists(st.tuples(st.sampled_from(POINTS), st.integers(1, 6)), min_size=1, max_size=2))
    def die_at(self, deaths: list[tuple[str, int]]) -> None:
        """Whoever comes to these steps dies there; the plan holds until the next one."""
        guest, _ = self.parts()
        guest.prove_alive()
        counts["kills"] += guest.engine.plan.deaths
        guest.engine.plan.arm(*deaths)

    @rule()
    def kill_engine(self) -> None:
        """All of it dies; the next one finishes what was in flight."""
        guest, _ = self.parts()
        for queue in guest.queues:
            if queue.is_broken:
                guest.restart_queue(queue)
        counts["kills"] += guest.engine.plan.deaths
        guest.engine.plan.disarm()
        guest.engine.kill_all()
        counts["kills"] += 1
        guest.follow_engine()

    @rule()
    def check(self) -> None:
        """Every sector is as it may be."""
        guest, _ = self.parts()
        guest.check()

    def teardown(self) -> None:
        is_failed = isinstance(sys.exception(), Exception)
        try:
            if self.guest is not None and self.engine is not None:
                counts["kills"] += self.engine.plan.deaths
                if not is_failed:
                    is_failed = True
                    self.guest.check()
                    is_failed = False
                self.guest.close()
        finally:
            if is_failed and self.engine is not None:
                first_failure[:] = first_failure or [*self.steps, self.engine.process.log]
            if self.engine is not None:
                self.engine.close()
            shutil.rmtree(self.folder, ignore_errors=True)


SETTINGS = settings(
    max_examples=int(os.environ.get("RINGBLK_MACHINE_EXAMPLES", "8")),
    stateful_step_count=40,
    phases=[Phase.generate],  # making it smaller takes minutes: scripts/stress does it
    report_multiple_bugs=False,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
GuestMachine.TestCase.settings = SETTINGS
