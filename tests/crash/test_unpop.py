"""A death while requests that wait for tokens go back to their ring: each is answered, and once."""

from pathlib import Path

import pytest

from tests.crash.rig import Rig
from tests.rigs.control_client import ControlClient

COUNT = 6


@pytest.mark.parametrize("point", ["inflight: flag cleared", "unpop: slot freed"])
@pytest.mark.parametrize("passage", [1, 3])
def test_a_death_while_requests_go_back(tmp_path: Path, point: str, passage: int) -> None:
    control = ControlClient(tmp_path / "control")
    rig = Rig(tmp_path, f"--control={control.socket_path}")
    try:
        rig.run(30)
        rig.drain()
        control.change("/drive", bps=1024, burst=1)
        sizes = [65536, *[4096] * (COUNT - 1)]  # the first is a minute's worth
        buffers = [rig.disk.allocate(size_bytes, 4096) for size_bytes in sizes]
        tokens = [rig.disk.submit_read(0, buffer) for buffer in buffers]
        rig.disk.submit()
        assert rig.disk.wait(tokens[0], 30.0).status == 0
        assert rig.plan is not None
        rig.plan.arm((point, passage))
        control.post("/pause")
        assert rig.plan.deaths == 1
        rig.plan.disarm()
        control.change("/drive", bps=0)
        control.post("/resume")
        assert [rig.disk.wait(token, 30.0).status for token in tokens[1:]] == [0] * (COUNT - 1)
        rig.check()
    finally:
        rig.close()
