"""Rounds of PUT and DELETE: whatever is left of a drive would add up."""

from pathlib import Path

from tests.rigs.control_group import members
from tests.rigs.engine_rig import eventually
from tests.rigs.many_drives import ManyDrives
from tests.stress.counts import counts


def run_rounds(count: int, group: Path | None = None) -> None:
    """So many rounds beside a drive that stays; no descriptor, shared memory or process may be left.

    Every other drive is in the control group, if there is one, which is empty in the end.
    """
    with ManyDrives({}) as engine:
        assert engine.put("stays", io_engine="sync")[0] == 201  # no workers, which come and go
        assert engine.put("comes")[0] == 201
        with engine.frontend("stays") as disk:
            disk.write(0, b"s" * 4096)
            assert engine.delete("comes")[0] == 204
            before = engine.holdings()
            for number in range(count):
                cgroup = None if group is None or number % 2 else str(group)
                assert engine.put("comes", workers=1 + number % 2, cgroup=cgroup)[0] == 201
                if number % 10 == 0:
                    with engine.frontend("comes") as other:
                        other.write(0, number.to_bytes(4, "little") * 1024)
                        assert other.read(0, 4096) == number.to_bytes(4, "little") * 1024
                query = "?force=true" if number % 3 == 0 else ""
                assert engine.delete("comes", query)[0] == 204
                counts["rules"] += 2
            assert disk.read(0, 4096) == b"s" * 4096
            # What the first drive had may still have been on its way out: fewer descriptors are none left.
            eventually(
                lambda: engine.holdings()[0] <= before[0] and engine.holdings()[1:] == before[1:],
                "nothing more than before",
            )
            assert group is None or members(group) == set()
        assert engine.delete("stays")[0] == 204
