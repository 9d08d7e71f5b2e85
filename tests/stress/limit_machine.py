"""A state machine: drives of a rate group, each in a process of its own, that draw from one bucket at once.

The clock is the machine's. Guests always want more than they get; they stop their queues as they like.
Members join, leave, are killed, change the limit, and have dispatchers that die and are succeeded. After each
step:

- the members have drawn no more than burst + one-time burst + rate * t since the limit was set: what they
  began, and their credit (a debt is begun and not drawn);
- while there was a member, no less than rate * t but for pieces that are reserved and those of the killed;
- members that were there all the time have drawn the same but for two quanta;
- nobody owes more than one request of each queue and what may wait.
"""

import contextlib
import os
import uuid

import posix_ipc
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ringblk.shm.rates.account import AHEAD_S
from ringblk.shm.rates.bucket_settings import BucketSettings
from ringblk.shm.rates.limit import READ, WRITE
from ringblk.shm.rates.limit_settings import RateLimitSettings
from tests.rigs.image_file import MIB
from tests.rigs.rate_rig import SECOND
from tests.stress.counts import counts
from tests.stress.group_member import Habits, Member

MOST_MEMBERS = 4
QUANTA_A_SECOND = 500
BUCKETS = {"bytes_total": (100_000, 50_000_000), "ops_total": (50, 20_000)}
HABITS = st.builds(
    Habits,
    kind=st.sampled_from([READ, WRITE]),
    length_bytes=st.sampled_from([512, 4096, 65536, MIB, 16 * MIB, 1000 * MIB]),
    queues=st.integers(1, 3),
    depth=st.integers(1, 4),
)


class LimitMachine(RuleBasedStateMachine):
    """One group for each example."""

    def __init__(self) -> None:
        super().__init__()
        counts["examples"] += 1
        self.name = f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.now_ns = self.terms_ns = SECOND
        self.members: list[Member] = []
        self.gone = 0  # drawn by members that have gone, under the terms of now
        self.killed_pieces = 0

    @initialize(bucket=st.sampled_from(sorted(BUCKETS)), data=st.data())
    def begin(self, bucket: str, data: st.DataObject) -> None:
        self.bucket = bucket
        self.terms = self._draw_terms(data)
        self.join(data.draw(HABITS))

    def _draw_terms(self, data: st.DataObject) -> BucketSettings:
        low, high = BUCKETS[self.bucket]
        rate = data.draw(st.integers(low, high))
        return BucketSettings(
            tokens=rate,
            burst=data.draw(st.integers(max(1, rate // 100), rate)),
            one_time_burst=data.draw(st.sampled_from([0, 0, rate // 2])),
        )

    @property
    def limits(self) -> RateLimitSettings:
        return RateLimitSettings(**{self.bucket: self.terms})

    @property
    def quantum(self) -> int:
        return max(1, self.terms.tokens // QUANTA_A_SECOND)

    def drawn(self, member: Member) -> int:
        return member.report.begun + member.report.credit

    def _forget(self) -> None:
        """New terms hold: everybody takes them in, with a full bucket, no credit and no debt."""
        self.terms_ns, self.gone, self.killed_pieces = self.now_ns, 0, 0
        for member in self.members:
            member.tell("forget", self.now_ns)
            member.hear()

    def _go_on(self) -> int:
        """Let all members do at once what they may do now; when there is more to do."""
        for _ in range(20_000):
            for member in self.members:
                member.tell("go on", self.now_ns)
            if not any([member.hear().has_progress for member in self.members]):  # noqa: C419 - hear them all
                return min(member.report.next_ns for member in self.members)
        raise AssertionError("no end to what may begin at one moment")

    @precondition(lambda self: len(self.members) < MOST_MEMBERS)
    @rule(habits=HABITS)
    def join(self, habits: Habits) -> None:
        """A member more; the first one begins the group anew."""
        counts["rules"] += 1
        self.members.append(Member(self.name, self.limits, habits, self.bucket, self.now_ns))
        if len(self.members) == 1:
            self._forget()

    @precondition(lambda self: len(self.members) > 1)
    @rule(place=st.integers(0, MOST_MEMBERS), is_killed=st.booleans())
    def part(self, place: int, is_killed: bool) -> None:
        """A member leaves, or is killed in the middle of what it does."""
        member = self.members.pop(place % len(self.members))
        if is_killed:
            counts["kills"] += 1
            member.tell("go on", self.now_ns)
            member.kill()
        else:
            member.leave()
        self.gone += self.drawn(member)
        self.killed_pieces += 1  # what it had reserved

    @precondition(lambda self: self.members)
    @rule(place=st.integers(0, MOST_MEMBERS), data=st.data())
    def change(self, place: int, data: st.DataObject) -> None:
        """A member sets another limit for all."""
        counts["rules"] += 1
        self.terms = self._draw_terms(data)
        member = self.members[place % len(self.members)]
        member.tell("change", self.now_ns, self.limits)
        member.hear()
        self._forget()

    @precondition(lambda self: self.members)
    @rule(place=st.integers(0, MOST_MEMBERS), word=st.sampled_from(["stop", "succeed"]))
    def disturb(self, place: int, word: str) -> None:
        """A guest stops its queues, or a dispatcher dies: its piece is lost."""
        counts["rules"] += 1
        member = self.members[place % len(self.members)]
        member.tell(word, self.now_ns)
        member.hear()
        self.killed_pieces += word == "succeed"

    @precondition(lambda self: self.members)
    @rule(ms=st.integers(1, 400))
    def run(self, ms: int) -> None:
        """Let the clock go, from one moment at which somebody has something to do to the next."""
        counts["rules"] += 1
        end_ns = self.now_ns + ms * 1_000_000
        next_ns = self._go_on()
        before = [self.drawn(member) for member in self.members]
        start_ns = self.now_ns
        while next_ns < end_ns:
            self.now_ns = max(next_ns, self.now_ns + 1)
            next_ns = self._go_on()
        drawn = [self.drawn(member) - first for member, first in zip(self.members, before, strict=True)]
        least = self.terms.tokens * (self.now_ns - start_ns) // SECOND
        pieces = len(self.members) + self.killed_pieces
        assert sum(drawn) >= least - pieces * self.quantum - 1, (drawn, least)
        self.killed_pieces = 0
        assert max(drawn) - min(drawn) <= 2 * self.quantum, drawn

    @invariant()
    def holds(self) -> None:
        """The envelope, and the bound of debts."""
        if not self.members:
            return
        since_ns = self.now_ns - self.terms_ns
        most = self.terms.burst_tokens + self.terms.one_time_burst + self.terms.tokens * since_ns // SECOND
        drawn = self.gone + sum(self.drawn(member) for member in self.members)
        assert drawn <= most + 1, (drawn, most)
        for member in self.members:
            cost = member.habits.length_bytes if self.bucket.startswith("bytes") else 1
            # What was begun with little credit, the last one of each queue that waited, and what may wait.
            owed = (1 + member.habits.queues) * cost + 2 * AHEAD_S * self.terms.tokens
            assert -owed <= member.report.credit <= self.terms.burst_tokens + 2 * self.quantum, member.report

    def teardown(self) -> None:
        for member in self.members:
            member.kill()
        with contextlib.suppress(posix_ipc.ExistentialError):
            posix_ipc.unlink_shared_memory(f"/ringblk-rate-{self.name}")


LimitMachine.TestCase.settings = settings(
    max_examples=12,
    stateful_step_count=12,
    deadline=None,
    derandomize=True,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
