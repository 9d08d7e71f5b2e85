"""A real guest compares each byte of what it does to a shared folder whose processes are killed.

Fault model: SIGKILL of a worker, of the dispatcher, of the control plane, at any moment, any number of times.
QEMU's `vhost-user-fs-pci` never connects again. The guest may notice a pause and nothing else.
`./scripts/stress --machine=share_guest` does it for longer.
"""

import os
from pathlib import Path

import pytest

from tests.stress.share_guest_storm import storm_over_guest

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="files are opened by their handles: root only"),
]

SEED = int(os.environ.get("RINGBLK_STORM_SEED", "1"))


def test_a_guest_goes_on_while_processes_are_killed(shm_path: Path, tmp_path: Path) -> None:
    storm_over_guest(shm_path, tmp_path, SEED, 0)
