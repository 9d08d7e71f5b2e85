"""A member of a rate group in a process of its own: a guest, on a clock that it is told."""

import multiprocessing
import os
from multiprocessing.connection import Connection

import msgspec

from ringblk.engine.dispatcher.throttle import Throttle
from ringblk.shm.rates.group import RateGroup
from ringblk.shm.rates.limit_settings import RateLimitSettings
from ringblk.shm.state.segment import StateSegment
from tests.rigs.rate_rig import Drive, Guest

_FORK = multiprocessing.get_context("fork")


class Habits(msgspec.Struct, frozen=True):
    """What a member's guest does: so many requests of that size in flight in each of its queues, for ever."""

    kind: int
    length_bytes: int
    queues: int
    depth: int


class Report(msgspec.Struct, frozen=True):
    """What a member has done, in tokens of the group's one bucket, and when it has something to do again."""

    begun: int
    credit: int
    has_progress: bool
    next_ns: int


class Member:
    """The test's side. The drive's segment is the test's: it can be removed when the member was killed."""

    def __init__(
        self, group: str, settings: RateLimitSettings, habits: Habits, bucket: str, now_ns: int
    ) -> None:
        self.habits = habits
        self.drive = Drive()
        self.report = Report(0, 0, False, 0)
        self._connection, theirs = _FORK.Pipe()
        self._process = _FORK.Process(
            target=_serve,
            args=(theirs, group, settings, habits, bucket, self.drive.state, now_ns),
            daemon=True,
        )
        self._process.start()
        theirs.close()
        self._connection.recv()

    def tell(self, word: str, *arguments: object) -> None:
        """Send a command; `hear` waits for its end."""
        self._connection.send((word, *arguments))

    def hear(self) -> Report:
        assert self._connection.poll(30.0), "a member hangs"
        self.report = self._connection.recv()
        return self.report

    def kill(self) -> None:
        """End it at whatever it is doing."""
        self._process.kill()
        self.close()

    def leave(self) -> None:
        self.tell("leave")
        self.hear()
        self.close()

    def close(self) -> None:
        self._process.join(30.0)
        self._connection.close()
        self.drive.close()


def _serve(
    connection: Connection,
    name: str,
    settings: RateLimitSettings,
    habits: Habits,
    bucket: str,
    state: StateSegment,
    now_ns: int,
) -> None:
    """The member's process."""
    group = RateGroup(name, settings, now_ns)
    drive = Drive(group.limit, state)
    guest = Guest(drive, habits.kind, habits.length_bytes, queues=habits.queues, depth=habits.depth)
    begun_before = 0

    def begun() -> int:
        if bucket.startswith("ops"):
            return len(drive.begun)
        return drive.total_bytes

    def report(has_progress: bool = False, next_ns: int = 0) -> Report:
        return Report(begun() - begun_before, drive.throttle.credit(bucket), has_progress, next_ns)

    connection.send(report())
    while connection.poll(120.0):  # or the test was killed
        word, *arguments = connection.recv()
        if word == "leave":
            group.leave()
            connection.send(report())
            os._exit(0)
        now_ns = arguments[0]
        if word == "go on":
            has_progress = False
            for _ in range(16):
                if not guest.go_on(now_ns):
                    break
                has_progress = True
            # Who asks when there is more draws for it: asked as dispatchers do, when all is begun that may.
            connection.send(report(has_progress, now_ns if has_progress else guest.next_ns(now_ns)))
            continue
        if word == "stop":
            for queue in range(habits.queues):
                drive.stop(queue, now_ns)
        elif word == "change":
            group.configure(arguments[1], now_ns)
        elif word == "forget":  # new terms: what was begun under the old ones does not count
            begun_before = begun()
        elif word == "succeed":  # a dispatcher died: another goes on from the segment
            drive.throttle = Throttle(state, group.limit, True)
            drive.waiting.clear()
        connection.send(report())
