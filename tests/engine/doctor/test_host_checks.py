"""Each check of the host fails where an engine would, and with the engine's words."""

import errno
import os
import re
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ringblk.engine.doctor import host_checks
from ringblk.engine.doctor.checks import HOST_CHECKS
from ringblk.engine.doctor.host_checks import Need, check_engines
from ringblk.engine.doctor.sandbox_checks import check_sandbox
from ringblk.engine.options.drive_config import DriveConfig
from tests.rigs.child_process import ends_with_tests
from tests.rigs.doctor import PROGRAM, checked_in_child, engine_agrees, run_doctor
from tests.rigs.engine_rig import MEMORY, NOBODY, Engine, eventually, own_lines, run_program
from tests.rigs.lacking_kernel import a_kernel_without

NEED = Need(1, DriveConfig())


def open_files(hard: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1024), hard))


def test_here_a_drive_starts_and_every_check_has_a_name_of_its_own() -> None:
    status, found = run_doctor()
    assert status == 0
    assert list(found) == [None]
    assert len(found[None]) == len(HOST_CHECKS)
    assert all(check.state != "failure" for check in found[None].values())


@pytest.mark.parametrize(("hard", "state"), [(100, "failure"), (400, "warning"), (10_000, "ok")])
def test_open_files(tmp_path: Path, hard: int, state: str) -> None:
    status, found = run_doctor(prepare=open_files(hard))
    check = found[None]["open files"]
    assert (check.state, status) == (state, int(state == "failure"))
    assert ("LimitNOFILE=" in check.mend) == (state != "ok")
    assert str(hard) in check.what
    if state == "failure":
        refused = run_program(f"--socket-path={tmp_path / 's'}", *MEMORY, prepare=open_files(hard))
        assert refused.returncode == 1
        assert f"{check.what}: {check.mend}" in refused.stderr


def test_more_drives_workers_and_queues_need_more() -> None:
    for options, what in (
        (("--workers=64", "--num-queues=64"), "64 workers and 64 queues can need"),
        (("--drives=100",), "40 drives with 160 workers and 40 queues need at least 705"),
    ):
        status, found = run_doctor(*options, prepare=open_files(700))
        check = found[None]["open files"]
        assert (status, check.state) == (1, "failure")
        assert what in check.what
    assert run_doctor("--drives=10", prepare=open_files(3200))[1][None]["open files"].state == "ok"
    check = run_doctor("--drives=100", prepare=open_files(3200))[1][None]["open files"]
    assert check.state == "warning"
    assert re.search(r"enough for 100 drives, and for a front end at \d+ of them", check.what)


def test_io_uring_that_a_filter_refuses() -> None:
    status, found = run_doctor(prepare=a_kernel_without("io_uring_setup", error=errno.EPERM))
    check = found[None]["io_uring"]
    assert (status, check.state) == (0, "warning")
    assert "by a seccomp filter, such as a container's" in check.what
    assert "io_uring_setup" in check.mend
    assert found[None]["locked memory"].state == "ok"


def test_the_engine_says_the_same_of_io_uring(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    lacking = a_kernel_without("io_uring_setup", error=errno.EPERM)
    eventually(lambda: engine_agrees(image, lacking), "the engine's reason is the doctor's")


def test_pidfd_open_that_is_refused(tmp_path: Path) -> None:
    lacking = a_kernel_without("pidfd_open", error=errno.EPERM)
    status, found = run_doctor(prepare=lacking)
    check = found[None]["process descriptors"]
    assert (status, check.state) == (1, "failure")
    assert "pidfd_open" in check.mend
    refused = run_program(f"--socket-path={tmp_path / 's'}", *MEMORY, prepare=lacking)
    assert check.what in refused.stderr


def test_memfd_create_that_is_refused() -> None:
    status, found = run_doctor(prepare=a_kernel_without("memfd_create"))
    check = found[None]["sealed memory"]
    assert (status, check.state) == (1, "failure")
    assert "memfd_create" in check.mend


@pytest.mark.parametrize(("call", "name"), [("landlock_create_ruleset", "Landlock"), ("seccomp", "seccomp")])
def test_a_sandbox_that_lacks_a_part(tmp_path: Path, call: str, name: str) -> None:
    lacking = a_kernel_without(call)
    status, found = run_doctor(prepare=lacking)
    assert status == 0
    assert found[None][name].state == "warning"
    assert found[None][name].mend
    sandbox = found[None]["sandbox"]
    assert sandbox.state == "warning"
    refused = run_program(f"--socket-path={tmp_path / 's'}", *MEMORY, "--sandbox=on", prepare=lacking)
    assert sandbox.what.removeprefix("without ") in refused.stderr


def test_a_sandbox_that_cannot_be_gone_into() -> None:
    """A filter that lets a kernel seem to have it all, and refuses the last step."""
    lacking = a_kernel_without("capset", error=errno.EPERM)
    (check,) = checked_in_child(lacking, lambda: [check_sandbox(NEED)])
    assert check.state == "failure"
    assert "capset" in check.what


def test_shared_memory_without_room() -> None:
    """In a mount namespace of one's own; the engine's words."""
    inner = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", inner, "sh"]
    done = subprocess.run(
        ends_with_tests([*command, PROGRAM, "doctor"]),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mount namespace of one's own: {done.stderr.strip()}")
    assert done.returncode == 1
    (at,) = [number for number, line in enumerate(done.stdout.splitlines()) if "shared memory " in line]
    said, mend = done.stdout.splitlines()[at : at + 2]
    assert said.startswith("  failure shared memory")
    assert "No space left on device" in said
    assert "make room in /dev/shm" in mend


def test_shared_memory_for_more_drives_than_there_is_room_for() -> None:
    status, found = run_doctor("--drives=4096", "--num-queues=64")
    check = found[None]["shared memory"]
    assert (status, check.state) == (1, "failure")
    assert "for 4096 drives" in check.what
    assert check.mend.startswith("mount -o remount,size=")


def test_one_core() -> None:
    core = min(os.sched_getaffinity(0))
    status, found = run_doctor(prepare=lambda: os.sched_setaffinity(0, {core}))
    assert (status, found[None]["cores"].state) == (0, "warning")


def test_engines_that_run_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_checks, "_MOST_NAMED", 100_000)  # there may be others
    with Engine(*MEMORY) as engine:
        pid = str(engine.process.pid)
        assert pid in re.findall(r"\d+", check_engines(NEED).what)
    eventually(lambda: pid not in re.findall(r"\d+", check_engines(NEED).what), "nothing said of it")


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_user_is_told_of_engines_it_may_not_look_into() -> None:
    with Engine(*MEMORY):
        (check,) = checked_in_child(lambda: os.setuid(NOBODY), lambda: [check_engines(NEED)])
    assert "of other users (0)" in check.what


def test_an_unknown_number_is_refused_in_one_line() -> None:
    for option in ("--drives=0", "--workers=65", "--num-queues=x"):
        done = subprocess.run([PROGRAM, "doctor", option], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert len(own_lines(done).splitlines()) == 1
