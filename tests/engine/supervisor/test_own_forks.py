"""Processes that the supervisor forks itself: they have a drive's storage as it is when they begin.

Fault model: dispatcher and workers are killed after each change of the drive's layers. On Linux the kernel
lets nobody share an io_uring, so they are not the zygote's; the portable forms have no zygote.
"""

import errno
import os
from pathlib import Path

from ringblk.shm.platform.form import LINUX
from tests.rigs.control_client import kill_and_reap
from tests.rigs.lacking_kernel import a_kernel_without
from tests.rigs.many_drives import ManyDrives

BLOCK_BYTES = 4096


def test_those_that_come_after_a_change_of_layers(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.write_bytes(bytes(1 << 20))
    settings = {
        "base": str(base),
        "overlay": str(tmp_path / "overlay"),
        "workers": 1,
        "io_engine": "io_uring" if LINUX else "psync",
    }
    lacking = a_kernel_without("pidfd_getfd", error=errno.EPERM) if LINUX else None
    with ManyDrives({"vm1": settings}, prepare=lacking) as engine, engine.frontend("vm1") as disk:
        written = []
        for number in range(4):
            written.append(os.urandom(BLOCK_BYTES))
            disk.write(number * BLOCK_BYTES, written[number])
            status, answer = engine.control.ask("POST", "/drives/vm1/snapshots", {"name": f"s{number}"})
            assert status == 201, answer
            for pid in engine.processes("vm1"):
                kill_and_reap(pid)
            for place, data in enumerate(written):
                assert disk.read(place * BLOCK_BYTES, BLOCK_BYTES) == data
        disk.flush()
        assert "error" not in engine.log()
        assert not LINUX or "is forked from the supervisor" in engine.log()
        assert engine.end() == 0
