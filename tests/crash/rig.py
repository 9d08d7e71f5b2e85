"""An engine, a front end and a verified load on it, and what it takes to kill parts of that and go on."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ringblk.engine.frontend.frontend import Frontend
from ringblk.engine.frontend.request import BackendGone
from tests.crash.crash_plan import CrashPlan
from tests.rigs.crash_load import BLOCK_BYTES, VerifiedLoad
from tests.rigs.engine_process import PROGRAM, EngineProcess, listening_engine

NUM_BLOCKS = 256
NUM_QUEUES = 3
DEPTH = 6
LOOK_S = 0.002
GO_ON_S = 30.0
"""How long anything may take before it counts as never."""


class Rig:
    """One disk image and whoever serves it. An engine that has gone is followed by another."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        has_crash_points: bool = True,
        seed: int = 1,
        first_death: tuple[str, int] | None = None,
        image: Path | None = None,
        uri: str | None = None,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        """`program` takes the place of the engine's, `uri` that of the image, which lies behind it then."""
        self._program = program
        # On a disk: who reads a file in memory may see half of a sector that is being written.
        self._disk_folder = tempfile.TemporaryDirectory(dir="/var/tmp", prefix="ringblk-test-")
        self.image = image or Path(self._disk_folder.name) / "disk.img"
        if image is None:
            self.image.write_bytes(bytes(NUM_BLOCKS * BLOCK_BYTES))
        self.socket_path = folder / "socket"
        self.plan = CrashPlan(folder / "plan") if has_crash_points else None
        self.options = [
            f"--blk-file={self.image}" if uri is None else f"--uri={uri}",
            "--io-engine=psync",
            "--workers=2",
            f"--num-queues={NUM_QUEUES}",
            *options,
        ]
        self.engine = self.start_engine()
        if self.plan is not None and first_death is not None:
            self.plan.arm(first_death)
        self.disk = self._connect()
        self.load = VerifiedLoad(self.disk, NUM_BLOCKS, DEPTH, seed)

    def start_engine(self) -> EngineProcess:
        """Start an engine and wait until it listens."""
        plan = self.plan.path if self.plan else None
        return listening_engine(self.socket_path, self.options, plan, self._program)

    def _connect(self) -> Frontend:
        """A front end, however many engines that takes."""
        deadline = time.monotonic() + GO_ON_S
        while True:
            try:
                return Frontend(
                    str(self.socket_path), num_queues=NUM_QUEUES, queue_size=16, request_timeout_s=GO_ON_S
                )
            except BackendGone:
                assert time.monotonic() < deadline, f"no engine to begin with:\n{self.engine.log}"
                self.replace_engine()

    def step(self) -> None:
        """Some more load; goes on with another engine where this one has gone."""
        try:
            self.load.step()
        except BackendGone:
            self.reconnect()

    def reconnect(self) -> None:
        """Have the front end go on with the engine that listens, a new one if there is none."""
        deadline = time.monotonic() + GO_ON_S
        while True:
            assert time.monotonic() < deadline, f"no engine to go on with:\n{self.engine.log}"
            try:
                self.disk.reconnect(str(self.socket_path))
                return
            except BackendGone:
                self.replace_engine()

    def restart_driver(self) -> None:
        """Another driver takes the disk over, with memory and rings of its own; nothing is in flight."""
        self.disk.close()
        self.replace_engine()
        self.disk = self._connect()
        self.load.use(self.disk)

    def replace_engine(self) -> None:
        """Start a new engine if the supervisor of this one has gone."""
        if self.engine.has_ended():
            self.engine = self.start_engine()

    def run_until(self, is_enough: Callable[[], bool], what: str) -> None:
        """Run the load until something is the case."""
        deadline = time.monotonic() + GO_ON_S
        step = 0
        while not is_enough():
            assert time.monotonic() < deadline, f"{what} does not come\n{self.engine.log}"
            self.step()
            step += 1
            if step % 8 == 0:
                self.drain()  # so that everybody goes to sleep now and then

    def run_until_there(self, role: str, other_than: int = 0) -> int:
        """Run the load until there is such a child with another pid: workers come when there is work."""
        found: list[int] = []

        def is_there() -> bool:
            found[:] = [self.engine.children().get(role, other_than)]
            return found != [other_than]

        self.run_until(is_there, f"a {role}")
        return found[0]

    def wait_for(self, is_so: Callable[[], bool], what: str) -> None:
        """Wait for something without doing anything."""
        deadline = time.monotonic() + GO_ON_S
        while not is_so():
            assert time.monotonic() < deadline, f"{what}: does not come\n{self.engine.log}"
            time.sleep(LOOK_S)

    def run(self, count: int) -> None:
        """Run the load until so many more requests are done."""
        wanted = self.load.completed + count
        self.run_until(lambda: self.load.completed >= wanted, f"{count} completions")

    def drain(self) -> None:
        """Take everything that is in flight, of this engine or the next."""
        deadline = time.monotonic() + GO_ON_S
        while self.load.inflight_count:
            assert time.monotonic() < deadline, f"not answered: {self.load.inflight_count}\n{self.engine.log}"
            try:
                self.load.take()
            except BackendGone:
                self.reconnect()

    def check(self) -> None:
        """Everything is answered, every byte is as it may be, and what should live does."""
        self.drain()
        self.load.begin_sweep()
        deadline = time.monotonic() + GO_ON_S
        goes_on = True
        while goes_on:
            assert time.monotonic() < deadline, f"reading everything takes for ever\n{self.engine.log}"
            try:
                goes_on = self.load.sweep()
            except BackendGone:
                self.reconnect()
        self.load.check_image(self.image)

    def close(self) -> None:
        """End it all; nothing may be left."""
        if self.plan:
            self.plan.disarm()
        try:
            self.disk.close()
        finally:
            self.engine.end()
            self._disk_folder.cleanup()
