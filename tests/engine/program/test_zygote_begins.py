"""The supervisor dies while the next zygote has only just been forked.

Fault model: SIGKILL of the zygote, then of the supervisor while the zygote in its place is stopped at a step
between its fork and its first message. It goes on to start another control plane, as one that has lived for
long does.
"""

import os
import signal
import sys
from pathlib import Path

from tests.rigs.control_client import kill_and_reap
from tests.rigs.engine_rig import accepts, eventually
from tests.rigs.many_drives import ManyDrives
from tests.rigs.process_tree import children_of, has_ended, process_state, zygotes_of

BLOCK = b"z" * 4096
STEPS = ("_run_zygote", "set_process_name", "_serve")
PROGRAM = """
import os, signal
from pathlib import Path
from ringblk.engine.program.cli import backend_program
from ringblk.engine.zygote import zygote
def stop_before(name):
    step = getattr(zygote, name)
    def stop_and_go(*given):
        if Path({step_path!r}).read_text() == name:
            os.kill(os.getpid(), signal.SIGSTOP)
        return step(*given)
    setattr(zygote, name, stop_and_go)
for name in {steps!r}:
    stop_before(name)
backend_program()
"""


def test_one_that_has_just_been_forked_starts_another_control_plane(tmp_path: Path) -> None:
    step_path = tmp_path / "step"
    step_path.write_text("")
    program = [sys.executable, "-c", PROGRAM.format(step_path=str(step_path), steps=STEPS)]
    with ManyDrives({"vm1": {}, "vm2": {}}, program=program) as engine, engine.frontend("vm1") as disk:
        for times, step in enumerate(STEPS, 1):
            disk.write(0, BLOCK)
            step_path.write_text(step)
            (former,) = zygotes_of(engine.pid)
            kill_and_reap(former)
            zygote = stopped_child_of(engine.pid)
            step_path.write_text("")
            os.kill(engine.pid, signal.SIGKILL)
            eventually(lambda: has_ended(engine.pid), "its death")
            assert accepts(engine.socket_path("vm2")), step
            os.kill(zygote, signal.SIGCONT)
            engine.wait_restarted(times)
            assert zygotes_of(engine.pid) == [zygote], step
            assert disk.read(0, 4096) == BLOCK
            with engine.frontend("vm2") as other:
                other.write(0, BLOCK)
        disk.close()
        engine.end()
        assert "Traceback" not in engine.log()


def stopped_child_of(pid: int) -> int:
    """The first that is stopped."""
    found: list[int] = []

    def is_there() -> bool:
        found[:] = [child for child in children_of(pid) if process_state(child) == "T"]
        return bool(found)

    eventually(is_there, "a child that is stopped")
    return found[0]
