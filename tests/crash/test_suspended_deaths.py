"""Deaths while a queue is stopped with requests in flight, and while the image changes hands.

Fault model: at any step the source's dispatcher, or all of an engine with its control plane, is killed, and
the disk has not answered yet. The other engine does all that was in flight, once nothing of it can land.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ringblk.shm.platform.form import LINUX
from tests.crash.crash_build import crash_environment
from tests.crash.crash_plan import CrashPlan
from tests.crash.walk_points import SUSPEND_POINTS
from tests.rigs.engine_rig import BACKENDS, Engine, eventually
from tests.rigs.moving_frontend import (
    SIZE_BYTES,
    MovingFrontend,
    check_done,
    coarse_options,
    suspended,
)
from tests.rigs.stalling_file import StallingFile, stalling_file

_MAIN = "from ringblk.engine.program.cli import backend_program; backend_program()"
DEATHS = [
    ("suspend: slot let go", 1, {"count": 2}),
    ("suspend: slot let go", 2, {"count": 2}),
    ("suspend: slot ended", 1, {"partial_count": 2}),
    ("suspend: waiting slot freed", 1, {"read_count": 1}),
    ("image: nothing under way", 1, {}),
    ("image: given up", 1, {}),
]


@pytest.fixture
def disk_file(tmp_path: Path) -> Iterator[StallingFile]:
    with stalling_file(tmp_path, SIZE_BYTES) as file:
        yield file
        file.go_on()


def mortal_program(plan: CrashPlan) -> Sequence[str]:
    """An engine's, in the build with crash points."""
    environment = crash_environment(plan.path)
    folders = f"{environment['PYTHONPATH']}:{BACKENDS}"
    variables = [f"PYTHONPATH={folders}", f"RINGBLK_CRASH_FILE={plan.path}"]
    return ("env", *variables, sys.executable, "-c", _MAIN)


def options_for(disk_file: StallingFile) -> list[str]:
    return [
        f"--blk-file={disk_file.path}",
        "--io-engine=psync",
        f"--direct={'on' if LINUX else 'off'}",
        "--workers=1",
        "--lock=running",
    ]


def test_the_list_of_points_is_whole() -> None:
    assert {*(point for point, *_ in DEATHS), "image: taken"} == set(SUSPEND_POINTS)


@pytest.mark.parametrize(("point", "passage", "load"), DEATHS)
def test_a_death_at_the_source(
    tmp_path: Path, disk_file: StallingFile, point: str, passage: int, load: dict[str, int]
) -> None:
    plan = CrashPlan(tmp_path / "plan")
    plan.arm((point, passage))
    options = coarse_options(disk_file) if "partial_count" in load else options_for(disk_file)
    with suspended(
        options, disk_file, source_options=["--bps-read=512"], program=mortal_program(plan), **load
    ) as (_, target, frontend):
        frontend.move(target)
        eventually(lambda: "the queues wait for the image" in target.log(), "the target waits")
        disk_file.go_on()
        check_done(frontend, disk_file, sum({"count": 1, **load}.values()))
        eventually(lambda: plan.deaths == 1, "the death")


def test_a_death_of_the_target_as_it_takes_the_image(tmp_path: Path, disk_file: StallingFile) -> None:
    """Its front end goes on with the source, which does what was in flight after all."""
    plan = CrashPlan(tmp_path / "plan")
    plan.arm(("image: taken", 1))
    options = options_for(disk_file)
    with (
        suspended(options, disk_file) as (_, _, frontend),
        Engine(*options, program=mortal_program(plan)) as mortal,
    ):
        frontend.move(mortal)
        eventually(lambda: "the queues wait for the image" in mortal.log(), "the target waits")
        disk_file.go_on()
        mortal.process.wait(30.0)
        assert plan.deaths == 1
        back_to_source(frontend)
        check_done(frontend, disk_file)


def back_to_source(frontend: MovingFrontend) -> None:
    frontend.connection.close()
    frontend.connection = frontend.left
    frontend.go_on()
