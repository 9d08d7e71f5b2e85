"""`ringblk doctor` as a program, and what it says; its checks in a process that was prepared."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from ringblk.engine.doctor.check import CheckResult
from ringblk.engine.doctor.checks import Findings
from tests.rigs.child_process import ends_with_tests
from tests.rigs.engine_rig import Engine

PROGRAM = str(Path(sys.executable).with_name("ringblk"))


def run_doctor(
    *options: str, prepare: Callable[[], object] | None = None
) -> tuple[int, dict[str | None, dict[str, CheckResult]]]:
    """Its exit status, and what it has found by path (None: the host) and name."""
    done = subprocess.run(
        ends_with_tests([PROGRAM, "doctor", "--format=json", *options]),
        capture_output=True,
        timeout=60,
        check=False,
        preexec_fn=prepare,
    )
    assert done.stderr == b""
    found = msgspec.json.decode(done.stdout, type=list[Findings])
    return done.returncode, {each.path: {check.name: check for check in each.checks} for each in found}


def engine_agrees(image: Path, prepare: Callable[[], object] | None = None) -> bool:
    """Whether an engine gives the doctor's reason for how it carries requests out.

    Each measures how quickly the image reads, and on a busy machine they may measure differently once.
    """
    _, found = run_doctor(str(image), prepare=prepare)
    with Engine(f"--blk-file={image}", prepare=prepare) as engine:
        return found[str(image)]["I/O engine"].what.partition(": ")[2] in engine.log()


def checked_in_child(
    prepare: Callable[[], object], check: Callable[[], list[CheckResult]]
) -> list[CheckResult]:
    """What checks say in a forked process: one that may not have this tree's files, or some system calls."""
    told_fd, tells_fd = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            prepare()
            os.write(tells_fd, msgspec.json.encode(check()))
        finally:
            os._exit(0)
    os.close(tells_fd)
    with os.fdopen(told_fd, "rb") as told:
        found = msgspec.json.decode(told.read(), type=list[CheckResult])
    os.waitpid(child, 0)
    return found
