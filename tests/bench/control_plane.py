"""How long a driver waits when the control plane is killed under load, in turn with rounds that kill nobody.

A round keeps 16 writes of 4 KiB in flight from before the kill until the next control plane is there, and
takes the longest time between two completions. A round without a kill finds what is the machine's own. In a
third kind of round nobody is killed, and another engine starts beside: it finds what the next control plane's
start alone takes from the driver and the dispatcher, as any process would that starts on their cores.
"""

import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from ringblk.engine.frontend.backend import engine_command
from ringblk.engine.frontend.frontend import Frontend
from ringblk.engine.statistics.running_engines import RunningEngines
from tests.bench.pause import BLOCK_BYTES, DEPTH, GUARD_S, IMAGE_BYTES

LEFT_ALONE, BESIDE, KILLED = KINDS = ("left alone", "start beside", "control plane")
ROUND_S = 3.0
"""An engine whose control plane dies more than five times in ten seconds ends."""


class KilledControlPlane:
    """An engine with one drive in a list, a driver of that drive, and its load."""

    def __init__(self, folder: Path, io_engine: str) -> None:
        image, socket_path = folder / "kept.img", folder / "kept.sock"
        image.write_bytes(bytes(IMAGE_BYTES))
        drive = {"socket_path": str(socket_path), "blk_file": str(image), "io_engine": io_engine}
        self._folder = folder
        self._engine = self._start("kept", drive)
        while not socket_path.exists():
            time.sleep(0.001)
        self._disk = Frontend(socket_path, queue_size=64)

    def _start(self, name: str, drive: Mapping[str, object]) -> "subprocess.Popen[bytes]":
        config = self._folder / f"{name}.json"
        control = str(self._folder / f"{name}.control")
        config.write_text(json.dumps({"control": control, "drives": {name: drive}}))
        return subprocess.Popen([engine_command()[0], f"--config={config}"])

    def _start_beside(self) -> "subprocess.Popen[bytes]":
        memory = {"backend": "memory", "backend_arg": {"size_bytes": "65536"}}
        return self._start("beside", {**memory, "socket_path": str(self._folder / "beside.sock")})

    def supervisor_pid(self) -> int:
        """The control plane's process now."""
        (drive,) = (each for each in RunningEngines().snapshots() if each.drive == "kept")
        return drive.supervisor_pid

    def longest_gap_s(self, kind: str) -> float:
        """Of one round of this kind (`KINDS`)."""
        disk = self._disk
        buffers = [disk.allocate(BLOCK_BYTES) for _ in range(DEPTH)]
        places = itertools.cycle(range(0, IMAGE_BYTES, BLOCK_BYTES))
        busy = {disk.submit_write(next(places), buffer): buffer for buffer in buffers}
        disk.submit()
        former = self.supervisor_pid()
        if kind == KILLED:
            os.kill(former, signal.SIGKILL)
        beside = self._start_beside() if kind == BESIDE else None
        gap_s, begun_s = 0.0, time.monotonic()
        last_s = begun_s
        while last_s < begun_s + ROUND_S:
            completions = disk.poll(min_count=1, timeout_s=GUARD_S)
            assert completions, "requests are lost"
            assert all(completion.status == 0 for completion in completions)
            now_s = time.monotonic()
            gap_s, last_s = max(gap_s, now_s - last_s), now_s
            for completion in completions:
                buffer = busy.pop(completion.token)
                busy[disk.submit_write(next(places), buffer)] = buffer
            disk.submit()
        for token, buffer in busy.items():
            disk.wait(token, GUARD_S)
            buffer.release()
        if beside is not None:
            beside.terminate()
            beside.wait(GUARD_S)
        assert (self.supervisor_pid() != former) == (kind == KILLED)
        return gap_s

    def close(self) -> None:
        """End it."""
        self._disk.close()
        os.kill(self.supervisor_pid(), signal.SIGTERM)
        self._engine.wait(GUARD_S)
