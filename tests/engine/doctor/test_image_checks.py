"""Images and folders: what would keep an engine off them, in the engine's words."""

import contextlib
import errno
import fcntl
import os
import subprocess
from pathlib import Path

import msgspec
import pytest

from ringblk.engine.doctor.checks import Findings
from ringblk.engine.doctor.image_checks import IMAGE_CHECKS, check_path
from ringblk.workers.backends.image_lock import lock_image
from tests.rigs.child_process import ends_with_tests
from tests.rigs.doctor import PROGRAM, checked_in_child, engine_agrees, run_doctor
from tests.rigs.engine_rig import NOBODY, Engine, eventually, run_program
from tests.rigs.stalling_file import stalling_file

IMAGE_BYTES = 1 << 20


def test_an_image_that_can_be_served(image: Path) -> None:
    status, found = run_doctor(str(image))
    assert status == 0
    checks = found[str(image)]
    assert len(checks) == len(IMAGE_CHECKS)
    assert all(check.state == "ok" for check in checks.values())
    eventually(lambda: engine_agrees(image), "the engine's reason is the doctor's")


def test_a_folder_is_left_as_it_was(tmp_path: Path) -> None:
    status, found = run_doctor(str(tmp_path), "/dev/shm")
    assert status == 0
    assert list(found) == [None, str(tmp_path), "/dev/shm"]
    assert all(check.state == "ok" for check in found["/dev/shm"].values())
    assert list(tmp_path.iterdir()) == []


def test_an_image_that_an_engine_has(image: Path) -> None:
    with Engine(f"--blk-file={image}") as engine:
        status, found = run_doctor(str(image))
        check = found[str(image)]["lock"]
        assert (status, check.state) == (1, "failure")
        assert check.what == f"in use by another engine (process {engine.process.pid})"
        assert "--takeover" in check.mend
        refused = run_program(f"--socket-path={image}.sock", f"--blk-file={image}")
        assert check.what in refused.stderr
    assert run_doctor(str(image))[0] == 0


def test_readers_share_an_image(image: Path) -> None:
    with Engine(f"--blk-file={image}", "--read-only"):
        assert run_doctor("--read-only", str(image))[0] == 0
        assert run_doctor(str(image))[1][str(image)]["lock"].state == "failure"


def test_a_qemu_that_writes_keeps_readers_off(image: Path) -> None:
    """QEMU's byte 101, as a lock of another program."""
    with image.open("rb+") as held:
        fcntl.lockf(held, fcntl.LOCK_SH, 1, 101)
        for options in ((), ("--read-only",)):
            check = run_doctor(*options, str(image))[1][str(image)]["lock"]
            assert (check.state, check.what) == ("failure", "in use by another program")


def test_no_lock_is_taken(image: Path) -> None:
    fd = os.open(image, os.O_RDWR)
    try:
        lock_image(fd, read_only=False)
        assert run_doctor(str(image))[0] == 1
        lock_image(fd, read_only=False)
    finally:
        os.close(fd)


def test_a_qcow2_file(image: Path) -> None:
    image.write_bytes(b"QFI\xfb\0\0\0\3" + bytes(IMAGE_BYTES))
    status, found = run_doctor(str(image))
    check = found[str(image)]["format"]
    assert (status, check.state) == (1, "failure")
    assert check.what == "this is a qcow2 file, and only raw images are served"
    assert "--format=raw" in check.mend
    refused = run_program(f"--socket-path={image}.sock", f"--blk-file={image}")
    assert f"{check.what}: {check.mend}" in refused.stderr


def test_a_file_system_without_direct_io(tmp_path: Path) -> None:
    """ramfs, in a mount namespace of one's own."""
    inner = f'mount -t ramfs ramfs {tmp_path} && exec "$@"'
    command = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        inner,
        "sh",
        PROGRAM,
        "doctor",
        "--format=json",
        str(tmp_path),
    ]
    done = subprocess.run(ends_with_tests(command), capture_output=True, timeout=60, check=False)
    if b"unshare" in done.stderr or b"mount:" in done.stderr:
        pytest.skip(f"no mount namespace of one's own: {done.stderr.decode().strip()}")
    found = msgspec.json.decode(done.stdout, type=list[Findings])
    (check,) = (check for check in found[1].checks if check.name == "direct I/O")
    assert (done.returncode, check.state) == (0, "warning")
    assert "refused" in check.what
    assert "--direct=off" in check.mend


def test_a_disk_that_cannot_be_read(tmp_path: Path) -> None:
    with stalling_file(tmp_path, IMAGE_BYTES) as file:
        file.failure = errno.EIO
        status, found = run_doctor(str(file.path))
    assert status == 1
    check = found[str(file.path)]["format"]
    assert (check.state, "Input/output error" in check.what) == ("failure", True)


@pytest.mark.parametrize("name", ["missing", "empty", "pipe", "/dev/null"])
def test_what_is_no_image(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "empty":
        path.touch()
    elif name == "pipe":
        os.mkfifo(path)
    status, found = run_doctor(str(path))
    (check,) = found[str(path)].values()
    assert (status, check.name, check.state) == (1, "access", "failure")
    assert check.mend
    refused = run_program(f"--socket-path={tmp_path / 's'}", f"--blk-file={path}")
    assert check.what in refused.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_who_may_not_write_or_read(image: Path) -> None:
    for folder in image.parents:
        with contextlib.suppress(PermissionError):
            folder.chmod(folder.stat().st_mode | 0o111)

    def look(mode: int, *, read_only: bool = False) -> tuple[str, str]:
        image.chmod(mode)
        checks = checked_in_child(
            lambda: os.setuid(NOBODY), lambda: check_path(str(image), read_only=read_only)
        )
        assert checks[0].name == "access"
        return checks[0].state, checks[0].what

    assert look(0o666)[0] == "ok"
    assert look(0o644, read_only=True)[0] == "ok"
    state, what = look(0o644)
    assert (state, what.partition(": ")[2]) == ("failure", "this user may not write to it")
    assert look(0o600) == ("failure", "can't open it: Permission denied")


def test_lines_for_people(image: Path) -> None:
    done = subprocess.run(
        [PROGRAM, "doctor", str(image), f"{image}.missing"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == "this host"
    assert str(image) in lines
    assert lines[-2].startswith("  failure access")
    assert lines[-2].endswith("can't open it: No such file or directory")
    assert lines[-1].strip() == "-> `ringblk image create` makes an empty one"
    assert done.stderr == ""


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff\n"
    with open(path, "wb") as file:
        file.write(bytes(512))
    done = subprocess.run(
        [os.fsencode(PROGRAM), b"doctor", b"--format=json", path], capture_output=True, check=False
    )
    assert done.returncode == 0
    assert b'"path": "' in done.stdout
    assert Findings(None, []).has_failed is False
