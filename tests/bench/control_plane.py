"""How long a driver waits when the control plane is killed under load, in turn with rounds that kill nobody.

A round keeps 16 writes of 4 KiB in flight from before the kill until the next control plane is there, and
takes the longest time between two completions. What a round without a kill finds is the machine's own.
"""

import itertools
import json
import os
import signal
import subprocess
import time
from pathlib import Path

from ringblk.engine.frontend.backend import engine_command
from ringblk.engine.frontend.frontend import Frontend
from ringblk.engine.statistics.running_engines import RunningEngines
from tests.bench.pause import BLOCK_BYTES, DEPTH, GUARD_S, IMAGE_BYTES

ROUND_S = 3.0
"""An engine whose control plane dies more than five times in ten seconds ends."""


class KilledControlPlane:
    """An engine with one drive in a list, a driver of that drive, and its load."""

    def __init__(self, folder: Path, io_engine: str) -> None:
        image, socket_path = folder / "kept.img", folder / "kept.sock"
        image.write_bytes(bytes(IMAGE_BYTES))
        drive = {"socket_path": str(socket_path), "blk_file": str(image), "io_engine": io_engine}
        config = folder / "engine.json"
        config.write_text(json.dumps({"control": str(folder / "control"), "drives": {"kept": drive}}))
        self._engine = subprocess.Popen([engine_command()[0], f"--config={config}"])
        while not socket_path.exists():
            time.sleep(0.001)
        self._disk = Frontend(socket_path, queue_size=64)

    def supervisor_pid(self) -> int:
        """The control plane's process now."""
        (drive,) = (each for each in RunningEngines().snapshots() if each.drive == "kept")
        return drive.supervisor_pid

    def longest_gap_s(self, *, kills: bool) -> float:
        """Of one round."""
        disk = self._disk
        buffers = [disk.allocate(BLOCK_BYTES) for _ in range(DEPTH)]
        places = itertools.cycle(range(0, IMAGE_BYTES, BLOCK_BYTES))
        busy = {disk.submit_write(next(places), buffer): buffer for buffer in buffers}
        disk.submit()
        former = self.supervisor_pid()
        if kills:
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
        assert (self.supervisor_pid() != former) == kills
        return gap_s

    def close(self) -> None:
        """End it."""
        self._disk.close()
        os.kill(self.supervisor_pid(), signal.SIGTERM)
        self._engine.wait(GUARD_S)
