"""A guest that rewrites what the device reads, while it reads it: the engine reads each word once.

A second process stores random values, legal and illegal ones, into descriptors, indirect tables, headers and
the avail ring as fast as it can (plan.py has the words, racing_guest.pyx the loop). The disk checks every
transfer that it is handed, guards and the trap must stay as they were, and the engine must serve the next
honest request. docs/fuzzing.md tells with which faults put in these tests were seen to fail.

RINGBLK_RACE_S is how many seconds each race takes (1).
"""

import contextlib
import os
import random
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rigs.engine_rig import DEADLINE_S, Engine, EngineWithWorkers, RawFrontend
from tests.rigs.inline_device import IN, OK

from .plan import (
    AVAIL,
    DATA,
    DATA_END,
    DISK_BYTES,
    HEADS,
    QUEUE_SIZE,
    RAM_BYTES,
    REGIONS,
    USED,
    RacingDriver,
    Word,
    encode,
    request_words,
    ring_words,
)
from .racing_build import racing_build

RACE_S = float(os.environ.get("RINGBLK_RACE_S", "1"))
_RACE = """
import sys
import racing_guest
ram_fd, kick_fd, seed, has_entries, *rings = map(int, sys.argv[3:])
race = racing_guest.Race(ram_fd, kick_fd, bytes.fromhex(sys.argv[1]), seed)
print("racing", flush=True)
race.run(float(sys.argv[2]), *rings, has_entries)
print(race.store_count, race.request_count)
"""


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """Where the disk says what it should not have been asked for."""
    return tmp_path / "report"


@pytest.fixture(params=["psync", "sync"])
def engine(request: pytest.FixtureRequest, report: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """With workers, and with the dispatcher doing it all."""
    folders = [str(racing_build()), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))
    arguments = {"size_bytes": DISK_BYTES, "window_start": DATA, "window_end": DATA_END, "report": report}
    options = [f"--backend-arg={name}={value}" for name, value in arguments.items()]
    with EngineWithWorkers(
        "--backend=racing_backend:make", f"--io-engine={request.param}", "--workers=2", *options
    ) as engine:
        yield engine


class RacingFrontend(RawFrontend):
    """A front end whose memory has the plan's regions, and whose driver the plan's rings."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, ram_bytes=RAM_BYTES)
        self.ram.regions = list(REGIONS)
        self.driver = self.queues[0].driver = RacingDriver(self.ram.view)
        self.driver.lay_out()

    def race(self, words: list[Word], *, has_entries: bool) -> "subprocess.Popen[str]":
        """Start a race; it has begun on return."""
        seed = int(os.environ.get("RINGBLK_RACE_SEED", random.randrange(1, 1 << 32)))
        print(f"seed {seed}")
        fds = (self.ram.fd, self.queues[0].kick_fd)
        numbers = map(str, (RACE_S, *fds, seed, int(has_entries), AVAIL, USED, QUEUE_SIZE))
        process = subprocess.Popen(
            [sys.executable, "-c", _RACE, encode(words).hex(), *numbers],
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=fds,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "racing\n"
        return process

    def wait_broken(self) -> None:
        """Wait until the queue breaks, or for the little while in which the race may end before it does."""
        select.select([self.queues[0].err_fd], [], [], 0.05)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.queues[0].err_fd)

    def restart_queue(self) -> None:
        """Stop the queue and start it again with empty rings."""
        self.connection.get_vring_base(0)
        self.driver.start_at(0)
        self.start_queue(0)


def check_after(frontend: RacingFrontend, engine: Engine, report: Path, children: set[int]) -> None:
    """Nothing was handed on or written that should not have been, and the engine serves."""
    assert not report.exists(), report.read_text()
    assert frontend.driver.spoilt_guards() == []
    assert engine.process.poll() is None
    assert engine.children() == children, "a process has died"
    frontend.driver.lay_out()
    frontend.restart_queue()
    frontend.driver.next_place = REGIONS[1].gpa + DATA - REGIONS[1].mmap_offset_bytes
    gpa = frontend.queues[0].offer(IN, read_bytes=512)
    assert len(frontend.queues[0].wait_used(1)) == 1
    assert frontend.driver.read(gpa + 512, 1) == bytes([OK])


def test_requests_that_change_while_they_are_read(engine: Engine, report: Path) -> None:
    """Addresses, lengths, flags, tables, types, sectors and segments race; requests go on all the time."""
    with RacingFrontend(engine).set_up() as frontend:
        children = engine.children()
        assert isinstance(frontend, RacingFrontend)
        race = frontend.race(request_words(), has_entries=True)
        frontend.driver.offer(*HEADS)
        frontend.queues[0].kick()
        output, _ = race.communicate(timeout=RACE_S + DEADLINE_S)
        assert race.returncode == 0
        stores, requests = map(int, output.split())
        print(f"{stores} stores, {requests} requests")
        assert requests > 100
        check_after(frontend, engine, report, children)


def test_rings_that_change_while_they_are_read(engine: Engine, report: Path) -> None:
    """Heads, next fields and the avail index race as well: the queue breaks and is started again."""
    with RacingFrontend(engine).set_up() as frontend:
        children = engine.children()
        assert isinstance(frontend, RacingFrontend)
        race = frontend.race(ring_words(), has_entries=False)
        rounds = 0
        while race.poll() is None:
            frontend.restart_queue()
            frontend.driver.avail_idx = 1
            frontend.queues[0].kick()
            frontend.wait_broken()
            rounds += 1
        output, _ = race.communicate()
        assert race.returncode == 0
        print(f"{output.split()[0]} stores, {output.split()[1]} requests, {rounds} rounds")
        assert rounds > 10
        check_after(frontend, engine, report, children)
