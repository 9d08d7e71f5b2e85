"""Deaths of a process that has the connections to an NBD server: nothing is lost, and nothing old lands last.

The fault model: the process is killed at named steps, with requests under way; the server lives.
"""

import os
from functools import partial
from pathlib import Path

import pytest

from tests.crash.crash_plan import CrashPlan
from tests.crash.rig import NUM_BLOCKS, Rig
from tests.crash.walk_points import NBD_POINTS
from tests.rigs.crash_load import BLOCK_BYTES
from tests.rigs.nbd_server import NbdServer, needs_nbd
from tests.rigs.tls_certificates import Certificates

pytestmark = needs_nbd("nbdkit", "openssl")
SLOW = ["--filter=delay", "delay-write=2ms"]
"""So that there is always something to be waited for."""


def has_seen(plan: CrashPlan, count: int) -> bool:
    return plan.deaths == count


@pytest.mark.parametrize(("io_engine", "uses_tls"), [("sync", False), ("psync", False), ("sync", True)])
def test_a_death_at_each_step_loses_nothing(tmp_path: Path, io_engine: str, uses_tls: bool) -> None:
    image = tmp_path / "disk.img"
    image.touch()
    os.truncate(image, NUM_BLOCKS * BLOCK_BYTES)
    command = ["nbdkit", "-t", "8", *SLOW[:1], "file", str(image), *SLOW[1:]]
    tls = Certificates(tmp_path) if uses_tls else None
    with NbdServer(tmp_path, command, None, tls) as server:
        rig = Rig(tmp_path, f"--io-engine={io_engine}", image=image, uri=server.uri)
        assert rig.plan is not None
        for point in NBD_POINTS:
            for passage in (1, 4):
                # A connection is made once in a life: another only follows another death.
                is_made = point in ("nbd: ledger begun", "nbd: socket kept")
                deaths = [("nbd: sent", 1), (point, 1)] if is_made else [(point, passage)]
                rig.plan.arm(*deaths)
                rig.run_until(partial(has_seen, rig.plan, len(deaths)), str(deaths))
                rig.plan.disarm()
                rig.run(40)
        rig.check()
        rig.close()
