"""An engine in processes of its own, seen from outside: started, killed, looked at."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.crash.crash_build import crash_environment
from tests.rigs.child_process import ends_with_tests, wait_end
from tests.rigs.engine_rig import accepts
from tests.rigs.left_records import note_socket
from tests.rigs.process_tree import drive_processes_of, has_ended, process_name, zygotes_of

START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 30.0
_BACKENDS = str(Path(__file__).with_name("backends"))
_POLL_S = 0.002
_MAIN = "from ringblk.engine.program.cli import backend_program; backend_program()"
PROGRAM = (sys.executable, "-c", _MAIN)


class EngineEndedError(AssertionError):
    """It has ended before anybody could see it listen."""


class EngineProcess:
    """An engine that listens on `socket_path`; its log goes to a file beside it.

    With `plan` it is the build with crash points, whose processes die by that plan.
    """

    def __init__(
        self,
        socket_path: Path,
        options: Sequence[str],
        plan: Path | None = None,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self.socket_path = socket_path
        note_socket(socket_path)
        self.log_path = socket_path.with_suffix(".log")
        environment = crash_environment(plan) if plan else dict(os.environ)
        folders = [_BACKENDS, *environment.get("PYTHONPATH", "").split(":")]
        environment["PYTHONPATH"] = ":".join(filter(None, folders))
        command = [*program, f"--socket-path={socket_path}", *options]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(ends_with_tests(command), stderr=log, env=environment)

    def wait_listening(self) -> "EngineProcess":
        """Wait until it takes connections."""
        for _ in range(int(START_TIMEOUT_S / _POLL_S)):  # looks, not the clock: all may have been paused
            if accepts(self.socket_path):
                return self
            if self.process.poll() is not None:
                raise EngineEndedError(f"the engine ends with {self.process.returncode}:\n{self.log}")
            time.sleep(_POLL_S)
        raise AssertionError(f"the engine does not listen:\n{self.log}")

    @property
    def pid(self) -> int:
        """The supervisor."""
        return self.process.pid

    @property
    def log(self) -> str:
        """All that it and its predecessors have said."""
        return self.log_path.read_text()

    def children(self) -> dict[str, int]:
        """Living children by role ("dispatcher", "worker-0")."""
        found = {_role(pid): pid for pid in drive_processes_of(self.pid)}
        found.pop("", None)
        return found

    def zygote(self) -> int | None:
        """The zygote; None while there is none."""
        return next(iter(zygotes_of(self.pid)), None)

    def kill(self, role: str) -> bool:
        """SIGKILL a child, the "zygote" or the "supervisor"; False when it is not there at the moment."""
        match role:
            case "supervisor":
                pid: int | None = self.pid
            case "zygote":
                pid = self.zygote()
            case _:
                pid = self.children().get(role)
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return True

    def wait_child(self, role: str, other_than: int = 0) -> int:
        """Wait until there is such a child with another pid."""
        deadline = time.monotonic() + END_TIMEOUT_S
        while (pid := self.children().get(role, other_than)) == other_than:
            assert time.monotonic() < deadline, f"no new {role}:\n{self.log}"
            time.sleep(_POLL_S)
        return pid

    def has_ended(self) -> bool:
        """Whether the supervisor has gone."""
        return self.process.poll() is not None

    def wait_log(self, text: str) -> None:
        """Wait until it has said this."""
        deadline = time.monotonic() + END_TIMEOUT_S
        while text not in self.log:
            assert time.monotonic() < deadline, f"it does not say: {text}\n{self.log}"
            time.sleep(_POLL_S)

    def wait_end(self) -> int:
        """Wait for the supervisor's end; its exit status (negative: the signal)."""
        return wait_end(self.process, END_TIMEOUT_S)

    def end(self) -> None:
        """End it in whatever state it is, and see that nothing is left of it."""
        pids = [self.pid, *self.children().values(), *zygotes_of(self.pid)]
        if self.process.poll() is None:
            self.process.terminate()
            try:
                wait_end(self.process, END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"the engine does not end when told to:\n{self.log}") from None
        wait_gone(pids)

    def __enter__(self) -> "EngineProcess":
        return self.wait_listening()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


def listening_engine(
    socket_path: Path, options: Sequence[str], plan: Path | None, program: Sequence[str] = PROGRAM
) -> EngineProcess:
    """An engine that listens, or has; those that die by their plan before that are followed by others."""
    while True:
        engine = EngineProcess(socket_path, options, plan, program)
        try:
            return engine.wait_listening()
        except EngineEndedError:
            if plan is None or engine.process.returncode != -signal.SIGKILL:
                raise


def wait_gone(pids: Sequence[int]) -> None:
    """Wait until none of these processes is there any more."""
    deadline = time.monotonic() + END_TIMEOUT_S
    while left := [pid for pid in pids if not has_ended(pid)]:
        assert time.monotonic() < deadline, f"left behind: {[(pid, _role(pid)) for pid in left]}"
        time.sleep(_POLL_S)


def _role(pid: int) -> str:
    return process_name(pid).removeprefix("rb-")
