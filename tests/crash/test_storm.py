"""A storm of SIGKILLs: any child, every 50 to 400 ms, under a verified load.

It lasts RINGBLK_STORM_S seconds, ten where nothing is said; RINGBLK_STORM_SEED makes it another storm.
"""

import os
import random
import time
from pathlib import Path

import pytest

from tests.crash.rig import Rig

STORM_S = float(os.environ.get("RINGBLK_STORM_S", "10"))
SEED = int(os.environ.get("RINGBLK_STORM_SEED", "1"))


@pytest.mark.parametrize("io_engine", ["psync", "io_uring", "io_uring_inline"])
def test_no_request_fails_in_a_storm(tmp_path: Path, io_engine: str) -> None:
    rig = Rig(tmp_path, f"--io-engine={io_engine}", "--workers=4", has_crash_points=False, seed=SEED)
    engine = rig.engine
    chosen = random.Random(SEED)
    roles = ["dispatcher", *(f"worker-{index}" for index in range(4))]
    end_s = time.monotonic() + STORM_S / 2
    next_s = time.monotonic()
    kill_count = 0
    while time.monotonic() < end_s:
        rig.step()
        if time.monotonic() > next_s:
            kill_count += engine.kill(chosen.choice(roles))
            next_s = time.monotonic() + chosen.uniform(0.05, 0.4)
    rig.check()
    assert rig.engine is engine
    assert kill_count > STORM_S / 2
    for role in roles:
        engine.wait_child(role)
    rig.close()
