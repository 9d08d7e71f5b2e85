"""A layer that was merged goes once no process reads it, whatever dies, and whether requests go on or not.

Fault model: the control plane is killed when the chain that ends a merge was written, and the drive's
processes were not told. The first layer is cut off when it goes, so reads of it fail then. A
load that goes on writes each block anew before the next control plane is there, and sees nothing of that.
"""

import pytest

from tests.crash.layered_rig import LayeredRig

AT_A_MERGES_END = {"chain: renamed": 3, "layers: in use by the supervisor": 2}
"""Steps at the end of a commit's merge, and which passage that is: its seal passes them before."""


@pytest.mark.parametrize("point", AT_A_MERGES_END)
def test_the_first_layer(tmp_path_factory: pytest.TempPathFactory, point: str) -> None:
    rig = LayeredRig(tmp_path_factory)
    try:
        with rig.rig.connect() as disk:
            rig.rig.run(disk)
            rig.snapshot()
            rig.drain()
            rig.rig.plan.arm((point, AT_A_MERGES_END[point]))
            rig.ask_alone("commit", None)
            rig.rig.wait(lambda: rig.rig.plan.deaths == 1 and is_merged(rig), "the end of the merge")
            rig.rig.wait(lambda: (rig.overlay / "data").stat().st_size == 0, "the first layer's end")
            rig.rig.run(disk, 0)  # reads all
    except BaseException:
        print(rig.rig.log)
        raise
    finally:
        rig.close()


def is_merged(rig: LayeredRig) -> bool:
    return (state := rig.state()) is not None and "job" not in state
