"""A state machine: an operator who adds, changes and removes drives of one engine, guests, a killer."""

import contextlib
import os
import signal
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ringblk import Frontend, RequestStatus
from ringblk.engine.base.restart_limit import MAX_DEATHS
from ringblk.engine.frontend.request import BackendGone
from tests.rigs.control_client import kill_and_reap
from tests.rigs.engine_rig import DEADLINE_S
from tests.rigs.io_engines import of_this_build
from tests.rigs.many_drives import DISK_BYTES, ManyDrives
from tests.stress.counts import counts

CHUNK_BYTES = 4096
CHUNKS = DISK_BYTES // CHUNK_BYTES
NAMES = st.sampled_from(["vm1", "vm2", "vm3", "a.b-c_d"])
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "workers": st.integers(1, 3),
        "io_engine": st.sampled_from(of_this_build("psync", "io_uring", "sync")),
        "cache": st.sampled_from(["writeback", "writethrough", "unsafe"]),
        "bps": st.just(1 << 28),
        "queue_size": st.sampled_from([8, 128]),
    },
)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "iops": st.sampled_from([None, 1 << 20]),
        "cache": st.sampled_from(["writeback", "writethrough", "unsafe"]),
        "partuuid": st.sampled_from([None, "a-1", "b-2"]),
    },
)
CHUNK = st.integers(0, CHUNKS - 1)
VALUE = st.integers(1, 255)


class Guest:
    """One drive's disk as it must read, whoever serves it, and the front end that is connected."""

    def __init__(self) -> None:
        self.chunks: list[set[int]] = [{0} for _ in range(CHUNKS)]
        """What each chunk may hold: more than one value where a write was under way when its drive ended."""
        self.frontend: Frontend | None = None
        self.waiting: dict[int, tuple[int, int]] = {}  # token -> chunk, value

    def write(self, chunk: int, value: int) -> None:
        """Begin a write of a chunk that no other is under way for."""
        if self.frontend is None or chunk in {each for each, _ in self.waiting.values()}:
            return
        buffer = self.frontend.allocate(CHUNK_BYTES)
        buffer.view[:] = bytes([value]) * CHUNK_BYTES
        self.waiting[self.frontend.submit_write(chunk * CHUNK_BYTES, buffer)] = (chunk, value)
        self.frontend.submit()

    def finish(self) -> None:
        """Wait until all that was begun is done."""
        for token, (chunk, value) in self.waiting.items():
            assert self.frontend is not None
            assert self.frontend.wait(token, DEADLINE_S).status == RequestStatus.OK
            self.chunks[chunk] = {value}
        counts["requests"] += len(self.waiting)
        self.waiting.clear()

    def check(self) -> None:
        """All of the disk reads as it must."""
        self.finish()
        if self.frontend is None:
            return
        data = self.frontend.read(0, DISK_BYTES)
        for index in range(CHUNKS):
            found = data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
            assert found == found[:1] * CHUNK_BYTES, f"chunk {index} is of several writes"
            assert found[0] in self.chunks[index], f"chunk {index} has {found[0]}, not {self.chunks[index]}"
            self.chunks[index] = {found[0]}
        counts["requests"] += 1

    def leave(self, *, is_drained: bool) -> None:
        """The drive has gone. What it had under way is done if it was drained, else it may be."""
        for chunk, value in self.waiting.values():
            self.chunks[chunk] = {value} if is_drained else self.chunks[chunk] | {value}
        self.waiting.clear()
        if self.frontend is not None:
            with contextlib.suppress(BackendGone):
                self.frontend.close()
        self.frontend = None


class DrivesMachine(RuleBasedStateMachine):
    """Whatever is done to one drive, the others read as they must, and in the end nothing is left of any."""

    def __init__(self) -> None:
        super().__init__()
        counts["examples"] += 1
        self.first = self.engine = ManyDrives({})
        self.control = self.engine.control
        self.guests: dict[str, Guest] = {}  # of every drive that has ever been
        self.drives: dict[str, dict[str, Any]] = {}  # what GET gave of those that are there, state left out
        self.control_plane_deaths = 0  # of this engine

    # The operator.

    def note(self, name: str, answer: dict[str, Any]) -> None:
        assert answer["state"]["state"] == "running", answer
        self.drives[name] = {key: value for key, value in answer.items() if key != "state"}

    @rule(name=NAMES, settings=SETTINGS)
    def add(self, name: str, settings: dict[str, Any]) -> None:
        if name in self.drives:
            return
        status, answer = self.engine.put(name, **settings)
        assert status == 201, answer
        self.note(name, answer)
        self.guests.setdefault(name, Guest())

    @rule(name=NAMES, is_drained=st.booleans())
    def remove(self, name: str, is_drained: bool) -> None:
        if name not in self.drives:
            assert self.engine.delete(name)[0] == 404
            return
        assert self.engine.delete(name, "" if is_drained else "?force=true") == (204, b"")
        del self.drives[name]
        self.guests[name].leave(is_drained=is_drained)

    @rule(name=NAMES, changes=CHANGES)
    def change(self, name: str, changes: dict[str, Any]) -> None:
        if name not in self.drives:
            assert self.control.ask("PATCH", f"/drives/{name}", changes)[0] == 404
            return
        answer = self.control.change(f"/drives/{name}", **changes)
        for key, value in changes.items():
            assert answer[key] == value
        self.note(name, answer)

    @rule(name=NAMES)
    def put_again(self, name: str) -> None:
        """What GET gave changes nothing."""
        if name in self.drives:
            status, answer = self.control.ask("PUT", f"/drives/{name}", self.control.get(f"/drives/{name}"))
            assert status == 200, answer
            before = self.drives[name]
            self.note(name, answer)
            assert self.drives[name] == before

    @rule(name=NAMES)
    def put_what_cannot_be(self, name: str) -> None:
        status, answer = self.engine.put(name, blk_file="/nowhere/disk")
        assert (status, answer["field"]) == (409 if name in self.drives else 400, "blk_file")

    # The guests.

    @rule(name=NAMES)
    def connect(self, name: str) -> None:
        if name in self.drives and self.guests[name].frontend is None:
            self.guests[name].frontend = self.engine.frontend(name)

    @rule(name=NAMES)
    def disconnect(self, name: str) -> None:
        if name in self.drives and (frontend := self.guests[name].frontend) is not None:
            self.guests[name].finish()
            frontend.close()
            self.guests[name].frontend = None

    @rule(name=NAMES, writes=st.lists(st.tuples(CHUNK, VALUE), max_size=6))
    def write(self, name: str, writes: list[tuple[int, int]]) -> None:
        """Writes that are under way when the next thing happens."""
        if name in self.drives:
            for chunk, value in writes:
                self.guests[name].write(chunk, value)

    @rule(name=NAMES)
    def check(self, name: str) -> None:
        if name in self.drives:
            self.guests[name].check()

    # The killer.

    @rule(name=NAMES)
    def kill_dispatcher(self, name: str) -> None:
        if name in self.drives:
            self.guests[name].finish()  # progress between deaths, or the drive is given up
            self.guests[name].write(0, 1)
            self.guests[name].finish()
            if pid := self.control.get(f"/drives/{name}")["state"]["processes"].get("dispatcher"):
                kill_and_reap(pid)
                counts["kills"] += 1

    @rule()
    def kill_engine(self) -> None:
        """All drives are in the next engine, as they were set."""
        self.engine.kill()
        counts["kills"] += 1
        self.engine = ManyDrives({}, after=self.engine)
        self.control_plane_deaths = 0
        self.control = self.engine.control
        for guest in self.guests.values():
            if guest.frontend is not None:
                guest.frontend.reconnect()

    @precondition(lambda self: self.control_plane_deaths < MAX_DEATHS)  # or the engine may end
    @rule()
    def kill_control_plane(self) -> None:
        """It is started again, all drives are there as they were set, and no guest hears of it."""
        self.control_plane_deaths += 1
        self.engine.kill_control_plane()
        counts["kills"] += 1

    @invariant()
    def all_are_there(self) -> None:
        counts["rules"] += 1
        found = self.control.get("/drives")["drives"]
        for answer in found.values():
            state = answer.pop("state")
            assert state["state"] == "running", state
        assert found == self.drives

    def teardown(self) -> None:
        try:
            for name in list(self.drives):
                if self.guests[name].frontend is None:
                    self.guests[name].frontend = self.engine.frontend(name)
                self.guests[name].check()
                self.remove(name, True)
            _, shared, children = self.engine.holdings()
            assert (shared, children) == (set(), set())
            assert "Traceback" not in self.engine.log(), self.engine.log()
            assert self.engine.end() == (
                -signal.SIGKILL if self.control_plane_deaths else 0
            )  # the first one's
        finally:
            for guest in self.guests.values():
                guest.leave(is_drained=False)
            self.engine.close()
            self.first.close()  # whose folder it is


DrivesMachine.TestCase.settings = settings(
    max_examples=int(os.environ.get("RINGBLK_MACHINE_EXAMPLES", "3")),
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
