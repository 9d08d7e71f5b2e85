"""Two processes of an engine with a list of drives die, one after the other, while requests are in flight.

Fault model: SIGKILL of two of a worker, a dispatcher, the zygote and the supervisor, in either order, the
second before anybody has dealt with the first (the supervisor is stopped meanwhile, or it is the first). A
session outlives such a pair where its dispatcher lives and no io_uring has lost all who could watch it. Else
the front end connects again. Either way each request is done, and every byte is as its last write has it.
"""

import os
import signal

import pytest

from ringblk import Frontend
from ringblk.engine.frontend.request import BackendGone
from tests.rigs.engine_rig import DEADLINE_S, eventually
from tests.rigs.many_drives import STARTED, ManyDrives
from tests.rigs.process_tree import zygotes_of

BLOCK_BYTES = 4096
ROUNDS = 8
PAIRS = [
    ("worker", "zygote"),
    ("zygote", "worker"),
    ("worker", "supervisor"),
    ("dispatcher", "zygote"),
    ("zygote", "dispatcher"),
    ("dispatcher", "supervisor"),
    ("supervisor", "dispatcher"),
    ("supervisor", "worker"),
    ("worker", "dispatcher"),
]


def block_of(number: int, place: int) -> bytes:
    return bytes([number + 1, place + 1]) * (BLOCK_BYTES // 2)


class Writer:
    """Writes to each place again and again, and connects anew where it must."""

    def __init__(self, disk: Frontend) -> None:
        self._disk = disk
        self.was_cut_off = False
        self._busy: set[int] = set()

    def begin(self, number: int) -> None:
        """One write to each of eight places."""
        for place in range(8):
            buffer = self._disk.allocate(BLOCK_BYTES, BLOCK_BYTES)
            buffer.view[:] = block_of(number, place)
            self._busy.add(self._disk.submit_write(place * BLOCK_BYTES, buffer))
        self._disk.submit()

    def finish(self) -> None:
        """All that are in flight."""
        while self._busy:
            try:
                completions = self._disk.poll(1, DEADLINE_S)
            except BackendGone:
                self._reconnect()
                continue
            assert completions, f"{len(self._busy)} requests are lost"
            for completion in completions:
                assert completion.status == 0
                self._busy.remove(completion.token)

    def _reconnect(self) -> None:
        self.was_cut_off = True

        def is_connected() -> bool:
            try:
                self._disk.reconnect()
            except BackendGone:
                return False
            return True

        eventually(is_connected, "an engine that listens")


def pid_of(engine: ManyDrives, role: str) -> int:
    if role == "supervisor":
        return engine.pid
    if role == "zygote":
        return zygotes_of(engine.pid)[0]
    snapshot = engine.snapshots()["vm1"]
    if role == "dispatcher":
        return snapshot.dispatcher_pid
    return next(worker.pid for worker in snapshot.workers if worker.pid)


@pytest.mark.parametrize("io_engine", ["psync", "io_uring"])
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_pair_of_deaths_loses_nothing(first: str, second: str, io_engine: str) -> None:
    with ManyDrives({"vm1": {"io_engine": io_engine}, "vm2": {}}) as engine:
        with engine.frontend("vm1", queue_size=64) as disk, engine.frontend("vm2") as other:
            other.write(0, block_of(0, 0))
            writer = Writer(disk)
            for number in range(ROUNDS):
                writer.begin(number)
                if number != ROUNDS - 2:
                    writer.finish()
                    continue
                victims = [pid_of(engine, first), pid_of(engine, second)]
                if "supervisor" not in (first, second):
                    os.kill(engine.pid, signal.SIGSTOP)
                for pid in victims:
                    os.kill(pid, signal.SIGKILL)
                if "supervisor" in (first, second):
                    engine.wait_restarted(1)
                else:
                    os.kill(engine.pid, signal.SIGCONT)
                writer.finish()
            for place in range(8):
                assert disk.read(place * BLOCK_BYTES, BLOCK_BYTES) == block_of(ROUNDS - 1, place)
            assert other.read(0, BLOCK_BYTES) == block_of(0, 0)
            assert not writer.was_cut_off
        assert engine.log().count(STARTED) == ("supervisor" in (first, second))
        engine.end()
        assert "Traceback" not in engine.log()
