"""How long a driver waits when the control plane is killed under load, in turn with rounds that kill nobody.

A round keeps 16 writes of 4 KiB in flight from before the kill until the next control plane is there, and
takes the longest time between two completions. A round that is left alone finds what is the machine's own. In
a third kind of round the control plane of another engine is killed, which has a drive that nobody uses: a
process of the same size ends, and one like it starts on the same cores, and the driver has nothing to do with
either. What a round takes beyond that is the engine's own doing. Each round is a triple's: the figures are
compared within it, so that what changes slowly on the machine is in all three.
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

LEFT_ALONE, ANOTHER, KILLED = KINDS = ("left alone", "another engine's", "control plane")
ROUND_S = 2.0
"""An engine whose control plane dies more than five times in ten seconds ends."""


class KilledControlPlane:
    """An engine with one drive in a list, a driver of that drive, and its load; and an engine beside."""

    def __init__(self, folder: Path, io_engine: str) -> None:
        image, socket_path = folder / "kept.img", folder / "kept.sock"
        image.write_bytes(bytes(IMAGE_BYTES))
        drive = {"socket_path": str(socket_path), "blk_file": str(image), "io_engine": io_engine}
        memory = {"backend": "memory", "backend_arg": {"size_bytes": "65536"}}
        self._folder = folder
        self._engines = {
            "kept": self._start("kept", drive),
            "beside": self._start("beside", {**memory, "socket_path": str(folder / "beside.sock")}),
        }
        while not (socket_path.exists() and (folder / "beside.sock").exists()):
            time.sleep(0.001)
        self._disk = Frontend(socket_path, queue_size=64)

    def _start(self, name: str, drive: Mapping[str, object]) -> "subprocess.Popen[bytes]":
        config = self._folder / f"{name}.json"
        control = str(self._folder / f"{name}.control")
        config.write_text(json.dumps({"control": control, "drives": {name: drive}}))
        return subprocess.Popen([engine_command()[0], f"--config={config}"])

    def supervisor_pid(self, name: str = "kept") -> int:
        """The control plane's process now, of that drive's engine."""
        while True:
            found = [each for each in RunningEngines().snapshots() if each.drive == name]
            if len(found) == 1:
                return found[0].supervisor_pid
            time.sleep(0.01)  # the next one is just about to begin

    def longest_gap_s(self, kind: str) -> float:
        """Of one round of this kind (`KINDS`)."""
        disk = self._disk
        buffers = [disk.allocate(BLOCK_BYTES) for _ in range(DEPTH)]
        places = itertools.cycle(range(0, IMAGE_BYTES, BLOCK_BYTES))
        busy = {disk.submit_write(next(places), buffer): buffer for buffer in buffers}
        disk.submit()
        name = "beside" if kind == ANOTHER else "kept"
        former = self.supervisor_pid(name)
        if kind != LEFT_ALONE:
            os.kill(former, signal.SIGKILL)
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
        while kind != LEFT_ALONE and self.supervisor_pid(name) == former:
            time.sleep(0.01)  # on a machine with other things to do
        return gap_s

    def close(self) -> None:
        """End it."""
        self._disk.close()
        for name, engine in self._engines.items():
            os.kill(self.supervisor_pid(name), signal.SIGTERM)
            engine.wait(GUARD_S)
