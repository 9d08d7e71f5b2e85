"""SECURITY.md's promise: a guest slows down its own drive, not the others of its rate group.

Fault model: one guest keeps requests in flight that are large for the limit, stops and starts its queue again
and again, resets its device, hangs up and comes back. What the drives have moved is counted, not timed.
"""

import os
import select
import threading
import uuid
from collections import deque

import pytest

from ringblk.engine.frontend.frontend import Frontend
from tests.rigs.engine_rig import Engine, RawFrontend
from tests.rigs.inline_device import GPA, IN

SMALL_BYTES = 65536
HUGE_BYTES = 8 << 20
DEPTH = 128
WANTED = 1024
"""Reads of the other drive: a second's worth of the limit, two where it gets half of it."""
OPTIONS = [
    "--backend=memory",
    f"--backend-arg=size_bytes={HUGE_BYTES}",
    f"--bps={64 << 20}",
    "--burst=1048576",
]


class Hostile(threading.Thread):
    """A guest that keeps its queue full of reads of HUGE_BYTES, with one bad habit."""

    def __init__(self, engine: Engine, habit: str) -> None:
        super().__init__()
        self._engine = engine
        self._habit = habit
        self.is_over = threading.Event()
        self.has_begun = threading.Event()
        self.done_count = 0
        self.habit_count = 0

    def run(self) -> None:
        while not self.is_over.is_set():
            with RawFrontend(self._engine, ram_bytes=HUGE_BYTES + (1 << 20)) as frontend:
                self._serve(frontend.set_up())

    def _serve(self, frontend: RawFrontend) -> None:
        """Until told to end, or for one request where the habit is to hang up."""
        queue = frontend.queues[0]
        driver = queue.driver
        header, status = driver.place(IN.to_bytes(16, "little")), driver.place(b"\xff")
        pieces = [(header, 16, False), (GPA + (1 << 20), HUGE_BYTES, True), (status, 1, True)]
        free = [driver.make_chain(pieces, indices=range(head, head + 3)) for head in range(0, 15, 3)]
        while not self.is_over.is_set():
            driver.offer(*free)
            queue.kick()
            select.select([queue.call_fd], [], [], 0.02)
            if self._habit == "stop":
                frontend.connection.get_vring_base(0)
                frontend.start_queue(0)
            free = [head for head, _ in driver.used()]
            self.done_count += len(free)
            self.habit_count += 1
            self.has_begun.set()
            if self._habit == "hang up":
                return
            if self._habit == "reset":
                frontend.connection.get_vring_base(0)
                free = [head for head, _ in driver.used()]
                self.done_count += len(free)
                frontend.connection.reset_device()
                return


@pytest.mark.parametrize("habit", ["none", "stop", "reset", "hang up"])
def test_a_guest_slows_down_its_own_drive_alone(habit: str) -> None:
    options = [*OPTIONS, f"--rate-group=test-{os.getpid()}-{uuid.uuid4().hex[:8]}"]
    with Engine(*options) as first, Engine(*options) as second:
        hostile = Hostile(first, habit)
        hostile.start()
        try:
            assert hostile.has_begun.wait(30.0)
            with (
                Frontend(str(second.socket_path), memory_size_bytes=16 << 20, request_timeout_s=60.0) as disk,
                disk.allocate(SMALL_BYTES, 4096) as buffer,
            ):
                before = hostile.done_count
                tokens: deque[int] = deque()
                for _ in range(WANTED):
                    if len(tokens) == DEPTH:
                        assert disk.wait(tokens.popleft()).status == 0
                    tokens.append(disk.submit_read(0, buffer))
                    disk.submit()
                while tokens:
                    assert disk.wait(tokens.popleft()).status == 0
                moved = (hostile.done_count - before) * HUGE_BYTES
        finally:
            hostile.is_over.set()
            hostile.join()
        assert hostile.habit_count > 1
        # Its half, as much again for a machine that keeps the other drive's driver from running, a few debts.
        assert moved <= 2 * WANTED * SMALL_BYTES + 3 * HUGE_BYTES
