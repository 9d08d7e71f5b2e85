"""A storm of SIGKILLs: any child or the zygote, every 50 to 400 ms, under a verified load."""

import random
import time
from pathlib import Path

from tests.crash.rig import Rig
from tests.stress.counts import counts


def storm(folder: Path, io_engine: str, lasts_s: float, seed: int) -> None:
    """Let it rage; no request may fail, and every byte must be right."""
    rig = Rig(folder, f"--io-engine={io_engine}", "--workers=4", has_crash_points=False, seed=seed)
    engine = rig.engine
    chosen = random.Random(seed)
    end_s = time.monotonic() + lasts_s
    next_s = time.monotonic()
    kill_count = 0
    while time.monotonic() < end_s:
        rig.step()
        if time.monotonic() > next_s:
            roles = sorted(engine.children())  # workers come and go
            kill_count += bool(roles) and engine.kill(chosen.choice(roles))
            next_s = time.monotonic() + chosen.uniform(0.05, 0.4)
    rig.check()
    assert rig.engine is engine
    assert kill_count > lasts_s
    engine.wait_child("dispatcher")
    counts.update(requests=rig.load.completed, kills=kill_count, examples=1)
    rig.close()
