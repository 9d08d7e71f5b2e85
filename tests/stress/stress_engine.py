"""An engine under stress: its image, its control API, its deaths, and the engine that follows it."""

import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

from ringblk.workers.backends.topology import SECTOR_BYTES
from tests.crash.crash_plan import CrashPlan
from tests.rigs.control_client import ControlClient
from tests.rigs.engine_process import EngineProcess, listening_engine, wait_gone
from tests.rigs.io_engines import of_this_build

NUM_SECTORS = 512
_DRIVE = "--drive-id=stress"


@dataclass(frozen=True)
class Kind:
    """An engine to drive."""

    num_queues: int
    options: tuple[str, ...]
    has_workers: bool = True


KINDS = (
    Kind(2, ("--io-engine=psync", "--workers=2")),
    *(Kind(3, (f"--io-engine={name}", "--workers=3")) for name in of_this_build("io_uring")),
    Kind(2, ("--io-engine=sync",), has_workers=False),
    Kind(4, ("--workers=2", "--direct=off", "--queue-size=32", "--poll-us=0")),
)


class StressEngine:
    """An engine of one kind, built with its crash points, and whoever follows it on the same image."""

    def __init__(self, folder: Path, kind: Kind) -> None:
        self.kind = kind
        self._image = folder / "disk.img"
        self._image.write_bytes(bytes(NUM_SECTORS * SECTOR_BYTES))
        self._socket_path = folder / "socket"
        self.control = ControlClient(folder / "control")
        self.plan = CrashPlan(folder / "plan")
        self._options = [
            f"--blk-file={self._image}",
            f"--control={self.control.socket_path}",
            f"--num-queues={kind.num_queues}",
            _DRIVE,
            *kind.options,
        ]
        self.process = self._start()

    def _start(self) -> EngineProcess:
        return listening_engine(self._socket_path, self._options, self.plan.path)

    def connect(self) -> socket.socket:
        """A connection to it; to the next one if it has gone."""
        if self.process.has_ended():
            self.process = self._start()
        connected = socket.socket(socket.AF_UNIX)
        connected.connect(str(self._socket_path))
        return connected

    def kill(self, role: str) -> bool:
        """SIGKILL a child; False when it is not there at the moment."""
        return self.process.kill(role)

    def kill_all(self) -> None:
        """SIGKILL the supervisor, and wait until all that ended with it is gone."""
        pids = [self.process.pid, *self.process.children().values()]
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait_end()
        wait_gone(pids)

    def check(self) -> None:
        """It is as it should be: no exception of its own, and it has not given up."""
        log = self.process.log
        assert "Traceback" not in log, log
        assert "again and again" not in log, log

    def read_image(self) -> bytes:
        """The image's bytes."""
        return self._image.read_bytes()

    def close(self) -> None:
        """End it; nothing may be left."""
        self.plan.disarm()
        self.process.end()
