"""What the next control plane cannot go on with begins anew, and no other drive hears of it."""

import os
import signal

import pytest

from tests.rigs.control_client import stop_process
from tests.rigs.many_drives import ManyDrives
from tests.rigs.process_tree import zygotes_of

BLOCK = b"c" * 4096


@pytest.mark.parametrize("io_engine", ["psync", "io_uring"])
def test_workers_that_die_while_there_is_no_supervisor(io_engine: str) -> None:
    """Fault: SIGKILL of the supervisor, and of all workers before another comes.

    The zygote has the io_uring of each process, dead or not: so the next one waits until its writes have
    landed, and goes on. No other drive hears of it.
    """
    with ManyDrives({"vm1": {"io_engine": io_engine}, "vm2": {}}) as engine:
        disk, other = engine.frontend("vm1"), engine.frontend("vm2")
        for front_end in (disk, other):
            front_end.write(0, BLOCK)
        (zygote,) = zygotes_of(engine.pid)
        snapshot = engine.snapshots()["vm1"]
        stop_process(zygote)
        os.kill(engine.pid, signal.SIGKILL)
        for worker in snapshot.workers:
            os.kill(worker.pid, signal.SIGKILL)
        os.kill(zygote, signal.SIGCONT)
        engine.wait_restarted(1)
        assert engine.states() == {"vm1": "running", "vm2": "running"}
        for front_end in (disk, other):
            assert front_end.read(0, 4096) == BLOCK
            front_end.close()
        engine.end()
        assert "Traceback" not in engine.log()
