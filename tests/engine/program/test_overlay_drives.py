"""Drives with a base and an overlay in engines: options, PUT, many on one base, restarts, the sandbox."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringblk import Frontend
from tests.rigs.engine_rig import DEADLINE_S, Engine, run_program
from tests.rigs.many_drives import ManyDrives

SIZE_BYTES = 1 << 20
OVERLAY_BYTES = SIZE_BYTES + 4096 + 512
BASE = bytes(range(1, 129)) * (SIZE_BYTES // 128)
BLOCK = b"b" * 4096
AS_USERS_HAVE_IT = (sys.executable, "-P", "-m", "ringblk", "serve")
"""Without workers at rest."""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.img"
    path.write_bytes(BASE)
    return path


def options(base: Path, name: str = "overlay", *more: str) -> list[str]:
    return [f"--base={base}", f"--overlay={base.with_name(name)}", *more]


@pytest.mark.parametrize("io_engine", ["auto", "psync", "sync", "io_uring", "io_uring_inline"])
def test_writes_are_there_for_the_next_engine(base: Path, io_engine: str) -> None:
    way = options(base, "overlay", f"--overlay-size={OVERLAY_BYTES}", f"--io-engine={io_engine}")
    expected = bytearray(BASE.ljust(OVERLAY_BYTES, b"\0"))
    with Engine(*way) as engine, Frontend(engine.socket_path, request_timeout_s=DEADLINE_S) as disk:
        for offset, data in (
            (512, b"1" * 512),
            (8192, BLOCK),
            (OVERLAY_BYTES - 512, b"2" * 512),
            (20480, BLOCK),
        ):
            disk.write(offset, data)
            expected[offset : offset + len(data)] = data
        disk.write_zeroes(12288, 8192)
        expected[12288:20480] = bytes(8192)
        disk.flush()
        assert disk.read(0, OVERLAY_BYTES) == expected
        engine.process.kill()
        engine.process.wait()
    with Engine(*way) as engine, Frontend(engine.socket_path, request_timeout_s=DEADLINE_S) as disk:
        assert disk.read(0, OVERLAY_BYTES) == expected
    assert base.read_bytes() == BASE


@pytest.fixture
def drives(base: Path) -> Iterator[ManyDrives]:
    settings = {"base": str(base), "overlay": str(base.with_name("vm1"))}
    with ManyDrives({"vm1": settings}) as engine:
        yield engine


@pytest.mark.parametrize("is_listed", [True, False])
def test_processes_have_what_they_need_from_the_zygote(base: Path, is_listed: bool) -> None:
    """One at rest has not run yet: it has the modules of overlays, and imports none itself."""
    settings = {"base": str(base), "overlay": str(base.with_name("vm1"))}
    with ManyDrives({"vm1": settings} if is_listed else {}, program=AS_USERS_HAVE_IT) as engine:
        if not is_listed:
            assert engine.put("vm1", **settings)[0] == 201
        (dispatcher,) = engine.processes("vm1")
        assert "/backends/overlay." in Path(f"/proc/{dispatcher}/maps").read_text()


def test_drives_share_a_base(drives: ManyDrives, base: Path) -> None:
    status, answer = drives.put(
        "vm2", base=str(base), overlay=str(base.with_name("vm2")), overlay_size=OVERLAY_BYTES
    )
    assert status == 201
    assert (answer["base"], answer["state"]["size_bytes"]) == (str(base), OVERLAY_BYTES)
    with drives.frontend("vm1") as first, drives.frontend("vm2") as second:
        first.write(0, BLOCK)
        second.write(4096, BLOCK)
        assert first.read(0, 8192) == BLOCK + BASE[4096:8192]
        assert second.read(0, 8192) == BASE[:4096] + BLOCK


def test_the_next_control_plane_goes_on_with_an_overlay(drives: ManyDrives, base: Path) -> None:
    with drives.frontend("vm1") as disk:
        disk.write(0, BLOCK)
        drives.kill_control_plane()
        drives.control.get("/drives")  # waits for the next one
        drives.kill_dispatcher("vm1")
        disk.write(4096, BLOCK)
        disk.flush()
        assert disk.read(0, 12288) == BLOCK * 2 + BASE[8192:12288]
    assert "Traceback" not in drives.log()


def test_an_overlay_belongs_to_one_drive(drives: ManyDrives, base: Path) -> None:
    status, answer = drives.put("vm2", base=str(base), overlay=str(base.with_name("vm1")))
    assert (status, answer["field"]) == (409, "overlay")
    assert f"overlay {base.with_name('vm1')} is drive vm1's, too" in answer["error"]


def test_who_would_write_to_a_base_is_refused(drives: ManyDrives, base: Path) -> None:
    status, answer = drives.put("vm2", blk_file=str(base))
    assert (status, answer["field"]) == (400, "blk_file")
    assert "in use by another program" in answer["error"]


WRONG: dict[str, tuple[list[str], str]] = {
    "no overlay": (["--base=b"], "give one of --blk-file, --overlay, --uri and --backend"),
    "a base of something else": (["--base=b", "--blk-file=b"], "--base needs --overlay"),
    "two storages": (
        ["--base=b", "--overlay=o", "--blk-file=b"],
        "give one of --blk-file, --overlay, --uri and --backend",
    ),
    "read-only": (["--base=b", "--overlay=o", "--read-only"], "--read-only: not with --overlay"),
    "half a sector": (["--base=b", "--overlay=o", "--overlay-size=1000"], "1000 is no multiple of 512"),
    "a size alone": (["--blk-file=b", "--overlay-size=1M"], "--overlay-size needs --overlay"),
    "an empty name": (["--base=b", "--overlay="], "--overlay is empty"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_options(name: str) -> None:
    wrong, message = WRONG[name]
    done = run_program("--socket-path=/tmp/socket", *wrong)
    assert (done.returncode, message in done.stderr, done.stderr.count("\n")) == (2, True, 1), done.stderr


def test_what_cannot_be_had_is_said_in_one_line(base: Path, tmp_path: Path) -> None:
    way = f"--socket-path={tmp_path / 'socket'}"
    for wrong, message in (
        ([f"--base={tmp_path / 'none'}", f"--overlay={tmp_path / 'o'}"], "--base "),
        ([f"--base={base}", f"--overlay={tmp_path / 'none' / 'o'}"], "--overlay "),
        ([f"--base={base}", f"--overlay={base}"], "--overlay "),
        ([f"--overlay={tmp_path / 'o'}"], "lies on a base: say which (--base)"),
    ):
        done = run_program(way, *wrong)
        assert (done.returncode, message in done.stderr, done.stderr.count("\n")) == (1, True, 1), done.stderr
    base.write_bytes(b"QFI\xfb\0\0\0\3" + BASE[8:])
    done = run_program(way, *options(base))
    assert done.returncode == 1
    assert "this is a qcow2 file, and only raw images are served" in done.stderr
    assert f"--base {base}" in done.stderr


def test_a_base_that_was_changed_is_refused(base: Path, tmp_path: Path) -> None:
    with Engine(*options(base)):
        pass
    base.write_bytes(BASE)
    done = run_program(f"--socket-path={tmp_path / 'socket'}", *options(base))
    assert done.returncode == 1
    assert (
        f"--base {base}: is not as it was when the overlay {base.with_name('overlay')} was made on it"
        in done.stderr
    )
