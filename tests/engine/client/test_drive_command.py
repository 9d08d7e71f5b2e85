"""`ringblk drive`: what people type is done, and where it is not they are told why in one line."""

import contextlib
import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rigs.control_client import ControlledEngine
from tests.rigs.drive_command import RINGBLK, done, drive, refused
from tests.rigs.engine_rig import DEADLINE_S, MEMORY, Engine
from tests.rigs.many_drives import DISK_BYTES, ManyDrives
from tests.rigs.terminal import Terminal


@pytest.fixture(scope="module")
def engine() -> Iterator[ManyDrives]:
    """Each test has drives of its own names."""
    with ManyDrives({"vm1": {"workers": 1}}) as engine:
        yield engine


def answer(engine: ManyDrives, name: str) -> Any:
    return engine.control.get(f"/drives/{name}")


def test_a_drive_s_life(engine: ManyDrives, tmp_path: Path) -> None:
    """Paths are of the folder where the command is typed, whatever folder the engine is in."""
    (tmp_path / "disk.img").write_bytes(bytes(DISK_BYTES))
    options = [
        "life",
        "--blk-file=disk.img",
        "--socket-path=disk.sock",
        "--workers=1",
        "--bps=100M",
        "--read-only",
    ]
    assert done(engine, "add", *options, folder=tmp_path) == "life: added (waiting)\n"
    found = answer(engine, "life")
    assert (found["blk_file"], found["socket_path"]) == (
        str(tmp_path / "disk.img"),
        str(tmp_path / "disk.sock"),
    )
    assert (found["workers"], found["bps"], found["read_only"]) == (1, 100 << 20, True)
    assert done(engine, "remove", "life") == "life: removed\n"
    assert engine.control.ask("GET", "/drives/life")[0] == 404


def test_a_drive_is_not_added_twice(engine: ManyDrives) -> None:
    before = answer(engine, "vm1")
    assert (
        refused(engine, "add", "vm1", "--backend=memory", "--socket-path=x") == "drive vm1 is there already"
    )
    assert answer(engine, "vm1")["blk_file"] == before["blk_file"]


def test_settings_of_a_drive_that_runs(engine: ManyDrives) -> None:
    engine.put("set", workers=1)
    said = done(
        engine, "set", "set", "--workers=2", "--cache=unsafe", "--is-root-device=yes", "--partuuid=p-1"
    )
    assert said == "set: workers, cache, is_root_device, partuuid set (waiting)\n"
    found = answer(engine, "set")
    assert [found[name] for name in ("workers", "cache", "is_root_device", "partuuid")] == [
        2,
        "unsafe",
        True,
        "p-1",
    ]
    done(engine, "set", "set", "--is-root-device=no", "--partuuid=none")
    found = answer(engine, "set")
    assert (found["is_root_device"], found["partuuid"]) == (False, None)


def test_a_drive_is_paused_and_goes_on(engine: ManyDrives) -> None:
    engine.put("pause", workers=1)
    assert done(engine, "pause", "pause") == "pause: begins no more requests (paused)\n"
    assert answer(engine, "pause")["state"]["is_paused"]
    with engine.frontend("pause"):
        assert done(engine, "resume", "pause") == "pause: goes on (connected)\n"
    assert not answer(engine, "pause")["state"]["is_paused"]


def test_a_drive_s_size(engine: ManyDrives) -> None:
    engine.put("size", workers=1)
    assert done(engine, "resize", "size", "1M") == "size: 1.00 MiB (waiting)\n"
    assert engine.image("size").stat().st_size == 1 << 20
    os.truncate(engine.image("size"), 2 << 20)
    assert done(engine, "resize", "size", "image") == "size: 2.00 MiB (waiting)\n"
    assert refused(engine, "resize", "size", "1000") == "size_bytes: 1000 is not a multiple of 512 above 0"


def test_limits(engine: ManyDrives) -> None:
    engine.put("limit", workers=1)
    said = done(engine, "limit", "limit", "--bps=100M", "--burst=1MiB", "--iops=500", "--iops-burst=9")
    assert said == "limit: limits: bytes_total, ops_total (waiting)\n"
    found = answer(engine, "limit")
    assert [found[name] for name in ("bps", "burst", "iops", "iops_burst")] == [100 << 20, 1 << 20, 500, 9]
    assert done(engine, "limit", "limit", "--bps=none") == "limit: limits: ops_total (waiting)\n"
    assert done(engine, "limit", "limit", "--none", "--iops=7") == "limit: limits: ops_total (waiting)\n"
    limiter = '{"bandwidth": {"size": 10485760, "refill_time": 100}}'
    assert "bytes_total, ops_total" in done(engine, "limit", "limit", f"--rate-limiter={limiter}")
    assert done(engine, "limit", "limit", "--none") == "limit: limits: none (waiting)\n"


def test_json_is_what_the_engine_says(engine: ManyDrives) -> None:
    engine.put("json", workers=1)
    listed = json.loads(done(engine, "list", "--format=json"))
    assert listed["drives"].keys() == engine.control.get("/drives")["drives"].keys()
    for command, *arguments in (
        ("show",),
        ("set", "--workers=2"),
        ("limit", "--iops=5"),
        ("resize", "image"),
        ("pause",),
        ("resume",),
    ):
        shown = json.loads(done(engine, command, "json", *arguments, "--format=json"))
        now = answer(engine, "json")
        for each in (shown, now):
            del each["state"]["uptime_s"]
        assert shown == now
    assert done(engine, "remove", "json", "--format=json") == ""
    options = ("--backend=memory", "--backend-arg=size_bytes=1048576")
    added = done(engine, "add", "json", "--json", f"--socket-path={engine.socket_path('json')}", *options)
    assert json.loads(added)["state"]["size_bytes"] == 1 << 20


def test_a_list_for_people(engine: ManyDrives) -> None:
    engine.put("list", workers=1)
    lines = done(engine, "list").splitlines()
    assert lines[0].split() == ["drive", "state", "size", "up", "image"]
    (line,) = (line for line in lines if line.startswith("list "))
    assert line.split()[:4] == ["list", "waiting", "256", "KiB"]
    assert line.endswith(f"  {engine.image('list')}")
    command = [RINGBLK, "drive", "list", f"--control={engine.control.socket_path}"]
    with Terminal(command, columns=60) as terminal:
        assert terminal.wait_end() == 0
        (line,) = (line for line in terminal.screen.text if line.startswith("list "))
    assert "256 KiB" in line
    assert len(line) <= 60


def test_all_that_there_is_to_say_of_a_drive(engine: ManyDrives) -> None:
    engine.put("show", workers=1, drive_id="x\x7fy".replace("\x7f", "-"), bps="1M")
    lines = [line.split(maxsplit=1) for line in done(engine, "show", "show").splitlines() if line.strip()]
    assert lines[0] == ["show"]
    found = dict(pair for pair in lines if len(pair) == 2)
    assert found["state"] == "waiting"
    assert found["size"] == f"256 KiB ({DISK_BYTES} bytes)"
    assert found["limits"] == "bytes_total"
    assert found["bps"] == str(1 << 20)
    assert found["blk_file"] == str(engine.image("show"))
    assert found["processes"].startswith("worker 0 ")
    assert "partuuid" not in found  # it has none


# What is refused: the engine's words, and status 1.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "nobody"), "there is no drive nobody"),
        (("remove", "nobody"), "there is no drive nobody"),
        (("pause", "a/b\n"), r"there is no drive a/b\n"),
        (("set", "vm1", "--cache=fast"), "cache: Invalid enum value 'fast'"),
        (("set", "vm1", "--workers=65"), "workers: Expected `int` <= 64"),
        (("limit", "vm1", "--bps=many"), "bps: Expected"),
        (("limit", "vm1", "--burst=5"), "burst: "),
        (("add", "-", "--backend=memory", "--socket-path=x"), "a drive's name is 1 to 64"),
        (
            ("add", "new", "--socket-path=x", "--blk-file=/nowhere"),
            "blk_file /nowhere: can't open it: No such file",
        ),
        (("add", "new", "--backend=memory"), "give one of socket_path and fd"),
    ],
)
def test_the_engine_says_why_not(engine: ManyDrives, arguments: tuple[str, ...], words: str) -> None:
    assert words.partition(": ")[0] in (line := refused(engine, *arguments))
    assert words in line or words.partition(": ")[2] in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["drive", "show", "vm1"], "--control"),
        (["drive", "show", "--control=x"], "DRIVE"),
        (["drive", "set", "vm1", "--control=x"], "nothing to set"),
        (["drive", "limit", "vm1", "--control=x"], "no limit to set"),
        (["drive", "limit", "vm1", "--control=x", "--iops=5M"], "--iops: 5M is not a whole number"),
        (["drive", "limit", "vm1", "--control=x", "--rate-limiter={"], "--rate-limiter: "),
        (["drive", "nothing"], "nothing"),
    ],
)
def test_a_wrong_command_line_is_another_status(arguments: list[str], words: str) -> None:
    ended = subprocess.run([RINGBLK, *arguments], capture_output=True, text=True, timeout=DEADLINE_S)
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    assert words in ended.stderr


def test_where_no_engine_is(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    for path, words in (
        (tmp_path / "nothing", "no engine listens there"),
        (tmp_path / "dead", "no engine listens there"),
        (tmp_path / ("long" * 40), "path too long"),
    ):
        ended = drive(path, "list")
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr.startswith(f"ringblk: --control {path}: ")
        assert words in ended.stderr


OTHER_ANSWERS = (
    b"[]",
    b"{}",
    b"null",
    b"",
    b'{"drives": {"vm1": {}}}',
    b'{"drives": {"vm1": {"state": {"state": "running", "uptime_s": "long"}}}}',
    b"[" * 60_000,
)
"""Of programs that speak HTTP, and are no engine's."""


def _answering(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def test_where_another_program_listens(tmp_path: Path) -> None:
    with Engine(*MEMORY) as engine:
        assert "hangs up, or is no control API" in drive(engine.socket_path, "list").stderr
    for said, words in (
        (b"", "hangs up"),
        (b"220 mail.example.org ESMTP\r\n", "no control API"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "no control API (200 OK)"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\nnull", "no control API (500 Oops)"),
        *((_answering(body), "no control API (200 OK)") for body in OTHER_ANSWERS),
    ):
        with answering(tmp_path / "other", said) as path:
            ended = drive(path, "list")
        assert (ended.returncode, len(ended.stderr.splitlines())) == (1, 1)
        assert words in ended.stderr


@contextlib.contextmanager
def answering(path: Path, said: bytes) -> Iterator[Path]:
    """A program that says this to each who connects, whatever that one says."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connected, _ = listening.accept()
                with connected:
                    connected.recv(65536)
                    connected.sendall(said)

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield path
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(DEADLINE_S)
    path.unlink()


def test_an_engine_for_one_drive_says_so(tmp_path: Path) -> None:
    engine = ControlledEngine(tmp_path, "--workers=1")
    ended = drive(engine.control.socket_path, "list")
    engine.close()
    assert ended.returncode == 1
    assert "this engine is for one drive" in ended.stderr
