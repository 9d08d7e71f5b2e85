"""An engine whose hard limit on open files has room for all of its drives, and not for a guest at each.

Fault model: front ends come to more drives than there are descriptors for. Who has come keeps all that it may
need; who comes too late is turned away with a line, and is served once another has gone.
"""

import os
import resource

import pytest

from ringblk.engine.base.open_files import REST_COUNT
from ringblk.engine.frontend.frontend import Frontend
from ringblk.engine.frontend.request import BackendGone
from tests.rigs import hasty_workers
from tests.rigs.engine_rig import eventually
from tests.rigs.many_drives import ManyDrives

STORAGE_FILES = 3
"""Of a plain file: itself, what the dispatcher keeps, and a copy on its way."""
GUEST_FILES = 28 + 9 * 4 + 9 + 4 * 8
"""With four workers, a queue, and eight regions."""


def open_count(engine: ManyDrives) -> int:
    return len(os.listdir(f"/proc/{engine.process.pid}/fd"))


def limit(engine: ManyDrives, count: int) -> None:
    resource.prlimit(engine.process.pid, resource.RLIMIT_NOFILE, (count, count))


def test_a_drive_at_rest_has_no_more_than_is_set_apart() -> None:
    with ManyDrives({"vm1": {}}, program=hasty_workers.PROGRAM) as engine:
        before = open_count(engine)
        for number in range(2, 6):
            assert engine.put(f"vm{number}")[0] == 201
        assert (open_count(engine) - before) / 4 <= REST_COUNT + 1
        with engine.frontend("vm2") as disk:
            disk.write(0, b"2" * 512)
            assert open_count(engine) - before <= 4 * (REST_COUNT + STORAGE_FILES) + GUEST_FILES
        eventually(lambda: open_count(engine) - before <= 4 * (REST_COUNT + STORAGE_FILES), "as before")


def test_a_front_end_too_many_is_turned_away_until_another_has_gone() -> None:
    with ManyDrives({"vm1": {}, "vm2": {}, "vm3": {}}, program=hasty_workers.PROGRAM) as engine:
        limit(engine, 40 + 3 * (REST_COUNT + STORAGE_FILES) + 2 * GUEST_FILES - 1)  # one, and nearly another
        with engine.frontend("vm1") as first:
            first.write(0, b"1" * 512)
            with pytest.raises(BackendGone), engine.frontend("vm2"):
                pass
            line = "vm2: a front end is turned away: too few files may be open for one more beside 1 others:"
            assert line in engine.log()
            engine.kill_control_plane()
            assert first.read(0, 512) == b"1" * 512
            assert engine.find_control_plane()
        eventually(lambda: comes_in(engine, "vm2"), "its turn")
        assert engine.states() == dict.fromkeys(("vm1", "vm2", "vm3"), "running")


def comes_in(engine: ManyDrives, name: str) -> bool:
    try:
        frontend: Frontend = engine.frontend(name)
    except BackendGone:
        return False
    with frontend as disk:
        disk.write(0, b"2" * 512)
    return True
