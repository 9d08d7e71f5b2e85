"""Requests, kills, stalls, resets and reconnects in any order; nothing that was reported done is lost."""

import contextlib
import os
import shutil
import signal
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.crash.crash_points import point_names
from tests.crash.rig import Rig
from tests.rigs.io_engines import of_this_build
from tests.stress.counts import counts

ROLES = ("dispatcher", "worker-0", "worker-1")
_ELSEWHERE = ("uring:", "session:", "unpop:", "record:", "rate group:")
POINTS = sorted(name for name in point_names() if not name.startswith(_ELSEWHERE))


class EngineLife(RuleBasedStateMachine):
    """One image through all that can happen to its engine."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="ringblk-"))
        self.stopped: set[int] = set()

    @initialize(
        io_engine=st.sampled_from(of_this_build("psync", "psync", "sync", "io_uring", "io_uring_inline")),
        seed=st.integers(0, 1 << 32),
    )
    def start(self, io_engine: str, seed: int) -> None:
        self.rig = Rig(self.folder, f"--io-engine={io_engine}", seed=seed)

    @rule(count=st.integers(1, 60))
    def requests(self, count: int) -> None:
        """A load goes on for a while; what was stopped goes on first."""
        self.wake_all()
        self.rig.run(count)

    @rule()
    def submit(self) -> None:
        """Requests are in flight when the next thing happens."""
        self.rig.load.submit_all()

    @rule(role=st.sampled_from((*ROLES, "supervisor")))
    def kill(self, role: str) -> None:
        counts["kills"] += self.rig.engine.kill(role)

    @rule(
        deaths=st.lists(st.tuples(st.sampled_from(POINTS), st.integers(1, 6)), min_size=1, max_size=3),
        count=st.integers(1, 40),
    )
    def die_at(self, deaths: list[tuple[str, int]], count: int) -> None:
        """Whoever comes to these points dies there, if anybody does."""
        assert self.rig.plan is not None
        self.wake_all()
        self.rig.plan.arm(*deaths)
        self.rig.run(count)
        counts["kills"] += self.rig.plan.deaths
        self.rig.plan.disarm()

    @rule(role=st.sampled_from(ROLES))
    def stall(self, role: str) -> None:
        """A process stands still, as one whose core is wanted elsewhere."""
        pid = self.rig.engine.children().get(role)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
            self.stopped.add(pid)

    @rule()
    def wake_all(self) -> None:
        """Those that stand still go on."""
        for pid in self.stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.stopped.clear()

    @rule()
    def reconnect(self) -> None:
        """The front end connects anew, to whatever engine there is."""
        self.wake_all()
        self.rig.reconnect()

    @rule()
    def reset(self) -> None:
        """Another driver takes over the disk: everything is answered, the rings begin anew."""
        self.wake_all()
        self.rig.drain()
        self.rig.restart_driver()

    @rule()
    def upgrade(self) -> None:
        """The engine is told to end for a successor."""
        self.wake_all()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.rig.engine.pid, signal.SIGUSR2)

    @rule()
    def look(self) -> None:
        """What was reported done is on the disk, and what is there was asked for."""
        self.wake_all()
        self.rig.check()

    @invariant()
    def engine_has_not_given_up(self) -> None:
        counts["rules"] += 1
        if hasattr(self, "rig"):
            assert "again and again" not in self.rig.engine.log

    def teardown(self) -> None:
        self.wake_all()
        try:
            if hasattr(self, "rig"):
                self.rig.check()
                counts.update(requests=self.rig.load.completed, examples=1)
                self.rig.close()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


EngineLife.TestCase.settings = settings(
    max_examples=int(os.environ.get("RINGBLK_MACHINE_EXAMPLES", "10")),
    stateful_step_count=25,
    phases=[Phase.generate],  # what happened once in a race is not made smaller by trying again
    report_multiple_bugs=False,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
