"""An engine with a list of drives in a process of its own, and what it has of each."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ringblk import Frontend
from ringblk.engine.drives.record import records_of_process
from ringblk.engine.statistics.running_engines import RunningEngines
from ringblk.engine.statistics.statistics import StatisticsSnapshot
from ringblk.shm.platform.peer import peer_process_id
from ringblk.shm.segments.record_file import remove_record
from ringblk.shm.segments.shared_folder import shared_names
from ringblk.shm.state.segment import SEGMENT_PREFIX
from tests.crash.crash_build import crash_environment
from tests.rigs import standing_workers
from tests.rigs.child_process import ends_with_tests, wait_end
from tests.rigs.control_client import ControlClient, kill_and_reap
from tests.rigs.engine_rig import DEADLINE_S, NOBODY, environment, eventually
from tests.rigs.left_records import note_control_socket, note_socket
from tests.rigs.process_tree import drive_processes_of, kill_all_with, wait_none_with

DISK_BYTES = 256 << 10
STARTED = "the control plane has died; starting another"
Settings = Mapping[str, object]


class ManyDrives:
    """A running engine whose drives, images, sockets and control API are in one folder.

    `drives` are settings by name; `socket_path` and, where no backend is named, `blk_file` are added. `after`
    is an engine whose folder this one has: its predecessor. `gone` are drives that it will not have.
    """

    def __init__(
        self,
        drives: Mapping[str, Settings],
        *options: str,
        has_control: bool = True,
        after: "ManyDrives | None" = None,
        prepare: Callable[[], object] | None = None,
        gone: Sequence[str] = (),
        plan: Path | None = None,
        program: Sequence[str] = standing_workers.PROGRAM,
    ) -> None:
        """With `plan` it is the build with crash points, whose processes die by that plan."""
        self._folder: tempfile.TemporaryDirectory[str] = (
            after._folder if after else tempfile.TemporaryDirectory(prefix="ringblk-test-")
        )
        self._is_successor = after is not None
        self.folder = Path(self._folder.name)
        self.control = ControlClient(self.folder / "control.sock")
        note_control_socket(self.control.socket_path)
        number = len(list(self.folder.glob("log*")))
        config: dict[str, Any] = {
            "drives": {name: self.settings(name, **settings) for name, settings in drives.items()}
        }
        if has_control:
            config["control"] = str(self.control.socket_path)
        self.config_path = self.folder / f"engine-{number}.json"
        self.config_path.write_text(json.dumps(config))
        self._log_path = self.folder / f"log-{number}"
        self.mark = f"RINGBLK_TEST={self.folder.name}-{number}"
        """In the environment of all its processes."""
        with self._log_path.open("wb") as log:
            self.process = subprocess.Popen(
                ends_with_tests([*program, f"--config={self.config_path}", *options]),
                stderr=log,
                env={
                    **(crash_environment(plan) if plan else environment()),
                    **dict([self.mark.split("=")]),
                },
                preexec_fn=prepare,
            )
        self.pid = self.process.pid
        """The control plane: the process that was started, or one that came in its place."""
        if plan is not None:
            return  # who has made it waits for what is to come
        eventually(
            lambda: self._is_up(set(drives) - set(gone), has_control) or self.process.poll() is not None,
            "the engine's start",
        )
        assert self.process.poll() is None, self.log()

    def _is_up(self, names: set[str], has_control: bool) -> bool:
        is_said = all(f" INFO: {name}: " in self.log() and "sandbox" in self.log() for name in names)
        return is_said and (not has_control or self._is_controlled())

    def _is_controlled(self) -> bool:
        """Whether its control API answers, and not an earlier engine's."""
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(self.control.socket_path)) != 0:
                return False
            return peer_process_id(probe) == self.pid

    def kill_control_plane(self) -> None:
        """SIGKILL it, and wait until another has begun all its drives."""
        lines = self.log().count(STARTED)
        former = self.pid
        os.kill(former, signal.SIGKILL)
        self.wait_restarted(lines + 1)
        assert self.pid != former

    def wait_restarted(self, times: int) -> None:
        """Wait until so many control planes have come in the place of others, and the last one answers."""
        former = self.pid
        eventually(lambda: self.log().count(STARTED) >= times, "another control plane")
        eventually(lambda: self.find_control_plane() and self.pid != former, "its control API")

    def find_control_plane(self) -> bool:
        """Whether it answers, whichever process it is."""
        try:
            drives = self.control.get("/drives")["drives"]
        except OSError:
            return False  # it is just about to be another
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(self.control.socket_path)) != 0:
                return False
            pid = peer_process_id(probe)  # whoever answers has listened before
        if pid is None:
            return False
        self.pid = pid
        states = [drive["state"]["state"] for drive in drives.values()]
        return "starting" not in states

    def settings(self, name: str, **settings: object) -> dict[str, object]:
        """All that a drive of that name needs, and its image."""
        note_socket(self.socket_path(name))
        found: dict[str, object] = {"socket_path": str(self.socket_path(name)), **settings}
        if not {"backend", "blk_file", "overlay", "uri", "kind"} & settings.keys():
            image = self.image(name)
            if not image.exists():
                image.write_bytes(bytes(DISK_BYTES))
            found["blk_file"] = str(image)
        return found

    def socket_path(self, name: str) -> Path:
        return self.folder / f"{name}.sock"

    def image(self, name: str) -> Path:
        return self.folder / f"{name}.img"

    def put(self, name: str, **settings: object) -> tuple[int, Any]:
        """PUT a drive; status and body."""
        return self.control.ask("PUT", f"/drives/{name}", self.settings(name, **settings))

    def delete(self, name: str, query: str = "") -> tuple[int, bytes]:
        """DELETE a drive; status and body."""
        return self.control.ask_raw("DELETE", f"/drives/{name}{query}")

    def frontend(self, name: str, **options: Any) -> Frontend:
        """A front end of a drive."""
        options = {"memory_size_bytes": 1 << 20, "request_timeout_s": DEADLINE_S, **options}
        return Frontend(self.socket_path(name), **options)

    def log(self) -> str:
        return self._log_path.read_text()

    def states(self) -> dict[str, str]:
        """The state of each drive, by name."""
        found = self.control.get("/drives")["drives"]
        return {name: drive["state"]["state"] for name, drive in found.items()}

    def snapshots(self) -> dict[str, StatisticsSnapshot]:
        """The drives as their segments tell, by name."""
        found = RunningEngines().snapshots()
        return {each.drive: each for each in found if each.supervisor_pid == self.pid}

    def processes(self, name: str) -> set[int]:
        """The processes of one drive."""
        snapshot = self.snapshots()[name]
        pids = {snapshot.dispatcher_pid, *(worker.pid for worker in snapshot.workers)}
        return pids - {0}

    def kill_dispatcher(self, name: str) -> None:
        """Kill a drive's dispatcher, if it has one at the moment."""
        snapshot = self.snapshots().get(name)
        if snapshot is not None and snapshot.dispatcher_pid:
            with contextlib.suppress(ProcessLookupError):  # it has ended since it was looked for
                kill_and_reap(snapshot.dispatcher_pid)

    def segments(self) -> list[str]:
        """The names of its segments."""
        return self._own_names(SEGMENT_PREFIX)

    def records(self) -> list[str]:
        """The names of its drives' records."""
        return [found.name for found in records_of_process(self.pid, [NOBODY])]

    def lists(self) -> list[str]:
        """The names of its records of what was added and removed."""
        return self._own_names("ringblk-list-")

    def _own_names(self, prefix: str) -> list[str]:
        """Those of shared memory that tell of its process."""
        return [name for name in shared_names(prefix) if f"-{self.pid}-" in f"{name}-"]

    def children(self) -> set[int]:
        return set(drive_processes_of(self.pid))

    def holdings(self) -> tuple[int, set[str], set[int]]:
        """What a drive that is gone could have left: descriptors, shared memory, processes.

        A connection of the control API's is there for a moment longer than the test's end of it.
        """
        fd_count = len(os.listdir(f"/proc/{self.pid}/fd"))
        return fd_count, set(self._own_names("ringblk-")), self.children()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal to the control plane; the exit status of the process that was started."""
        os.kill(self.pid, number)
        status = wait_end(self.process, DEADLINE_S)
        wait_none_with(self.mark)
        return status

    def kill(self) -> None:
        """SIGKILL all its processes, so that nobody starts a control plane again."""
        kill_all_with(self.mark)
        self.process.wait()

    def __enter__(self) -> "ManyDrives":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            sys.stderr.write(self.log())
        self.close()

    def close(self) -> None:
        """Kill it if it runs, and remove what it has left for a successor."""
        self.kill()
        for left in records_of_process(self.pid, [NOBODY]):
            left.remove()
        for name in self.lists():
            remove_record(name)
        if not self._is_successor:
            self._folder.cleanup()
