"""An engine with a list whose control plane dies, and a front end that never connects a second time."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ringblk.engine.frontend.frontend import Frontend
from ringblk.engine.frontend.request import BackendGone
from ringblk.shm.platform.form import LINUX
from tests.crash.crash_build import crash_environment
from tests.crash.crash_plan import CrashPlan
from tests.rigs.child_process import ends_with_tests
from tests.rigs.control_client import ControlClient
from tests.rigs.crash_load import BLOCK_BYTES, VerifiedLoad
from tests.rigs.process_tree import kill_all_with

NUM_BLOCKS = 256
NUM_QUEUES = 2
DEPTH = 6
GO_ON_S = 30.0
_Answer = TypeVar("_Answer")
_MAIN = "from ringblk.engine.program.cli import main; main()"


class KeptRig:
    """One drive of an engine of the build with crash points. Its front end goes on, or the test fails."""

    def __init__(self, folder: Path, seed: int = 1, *, first_stamp: int = 0, **settings: object) -> None:
        """`first_stamp` is what the drive holds at first, as `pattern` has it."""
        self._disk_folder = tempfile.TemporaryDirectory(dir="/var/tmp", prefix="ringblk-test-")
        self.image = Path(self._disk_folder.name) / "disk.img"
        self.image.write_bytes(bytes(NUM_BLOCKS * BLOCK_BYTES))
        self.socket_path = folder / "socket"
        self.plan = CrashPlan(folder / "plan")
        self._seed = seed
        self._first_stamp = first_stamp
        self._writes_image = "overlay" not in settings
        self._load: VerifiedLoad | None = None
        self._disk: Frontend | None = None
        self.deaths = 0
        """Of control planes, as who kills them counts."""
        drive = {
            "socket_path": str(self.socket_path),
            "blk_file": str(self.image),
            "io_engine": "psync",
            "workers": 2,
            "num_queues": NUM_QUEUES,
            **settings,
        }
        self.config_path = folder / "engine.json"
        self._control = ControlClient(folder / "control")
        config = {"control": str(self._control.socket_path), "drives": {"kept": drive}}
        self.config_path.write_text(json.dumps(config))
        self.log_path = folder / "log"
        self._first = self._start()
        self.wait_listening()

    def _start(self) -> "subprocess.Popen[bytes]":
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                ends_with_tests([sys.executable, "-c", _MAIN, "serve", f"--config={self.config_path}"]),
                stderr=log,
                env=crash_environment(self.plan.path),
            )

    def wait_listening(self) -> None:
        """Wait until a control plane listens, and has nobody connected."""
        self.wait(self._is_free, "a control plane")

    def _is_free(self) -> bool:
        try:
            state = self._control.get("/drives/kept")["state"]
        except (OSError, ValueError):
            return False  # none is there yet
        return state["state"] == "running" and not state["is_connected"]

    @property
    def first_pid(self) -> int:
        """The first control plane."""
        return self._first.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def wait(self, is_so: Callable[[], bool], what: str) -> None:
        given_up_s = time.monotonic() + GO_ON_S
        while not is_so():
            assert time.monotonic() < given_up_s, f"{what} does not come:\n{self.log}"
            time.sleep(0.002)

    def connect(self) -> Frontend:
        """The front end, which has one connection."""
        self._disk = Frontend(
            str(self.socket_path), num_queues=NUM_QUEUES, queue_size=16, request_timeout_s=GO_ON_S
        )
        return self._disk

    def connect_to_next(self) -> Frontend:
        """Another front end: one that comes just when a control plane dies comes again."""
        given_up_s = time.monotonic() + GO_ON_S
        while True:
            try:
                return self.connect()
            except BackendGone:
                assert time.monotonic() < given_up_s, f"nobody listens:\n{self.log}"

    def go_on(self, disk: Frontend) -> None:
        """Some more load, of a front end that has to connect to the next engine."""
        given_up_s = time.monotonic() + GO_ON_S
        while True:
            try:
                disk.reconnect(str(self.socket_path))
                break
            except BackendGone:
                assert time.monotonic() < given_up_s, f"nobody listens:\n{self.log}"
        self.run(disk)

    def go_on_where_drives_end(self, do: Callable[[], _Answer]) -> _Answer:
        """Do something with the load, of the next engine where drives end with the control plane."""
        while True:
            try:
                return do()
            except BackendGone:
                if LINUX:
                    raise
                self._first.wait(GO_ON_S)
                self._first = self._start()
                self.wait_listening()
                assert self._disk is not None
                self._disk.reconnect(str(self.socket_path))

    def run(self, disk: Frontend, count: int = 100) -> None:
        """A load whose every answer is checked, and then all blocks."""
        if self._load is None:
            self._load = VerifiedLoad(disk, NUM_BLOCKS, DEPTH, self._seed, first_stamp=self._first_stamp)
        else:
            self._load.use(disk)
        load = self._load
        count += load.completed
        while load.completed < count:
            self.go_on_where_drives_end(load.step)
        while load.inflight_count:
            self.go_on_where_drives_end(load.take)
        load.begin_sweep()
        while self.go_on_where_drives_end(load.sweep):
            pass
        if self._writes_image:
            load.check_image(self.image)

    @property
    def load(self) -> VerifiedLoad:
        """What has run; `run` comes first."""
        assert self._load is not None
        return self._load

    @property
    def control(self) -> ControlClient:
        """Its control API."""
        return self._control

    def kill_all(self) -> None:
        """End all of its processes at one moment, as good as."""
        kill_all_with(f"RINGBLK_CRASH_FILE={self.plan.path}")

    def close(self) -> None:
        """End it all; nothing may be left."""
        self.plan.disarm()
        try:
            if self._first.poll() is None:
                self._first.terminate()
            kill_all_with(f"RINGBLK_CRASH_FILE={self.plan.path}")
            self._first.wait()
        finally:
            self._disk_folder.cleanup()
