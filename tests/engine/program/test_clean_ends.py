"""How programs end: what was opened is closed by its owner, and nothing is said that is no news."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ringblk import Frontend
from tests.rigs import standing_workers
from tests.rigs.control_client import ControlClient
from tests.rigs.engine_process import wait_gone
from tests.rigs.engine_rig import DEADLINE_S, Engine, environment, raw_frontend, run_program
from tests.rigs.inline_device import OUT

IMAGE_BYTES = 4 << 20
DISK_BYTES = 1 << 20
NEWS = ("Traceback", "Error in", "Exception ignored", "Exception in thread", "never awaited", "Fatal Python")
"""How Python says that something went wrong at a program's end."""


def assert_quiet(errors: str) -> None:
    """There may be log lines, but none of Python's own."""
    assert not [words for words in NEWS if words in errors], errors


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    return path


# An engine.


def patch_drive(control: ControlClient) -> None:
    control.change("/drive", size_bytes=2 * IMAGE_BYTES, cache="writethrough", iops=100)


CONTROL_USES: dict[str, Callable[[ControlClient], object]] = {
    "nothing": lambda control: None,
    "GET": lambda control: control.get(),
    "GET /stats": lambda control: control.get("/stats"),
    "GET /metrics": lambda control: control.ask_raw("GET", "/metrics"),
    "PATCH /drive": patch_drive,
    "PATCH /workers": lambda control: control.change("/workers", count=1),
    "a bad request": lambda control: control.ask("PATCH", "/drive", b"{"),
    "pause": lambda control: control.post("/pause"),
}


@pytest.mark.parametrize("use", CONTROL_USES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_an_engine_with_a_control_api_ends_quietly(image: Path, use: str, number: int) -> None:
    control = image.parent / "control"
    options = (f"--blk-file={image}", f"--control={control}", "--workers=2", "--io-engine=psync")
    with Engine(*options) as engine:
        CONTROL_USES[use](ControlClient(control))
        assert engine.end(number) == 0
        assert_quiet(engine.log())


@pytest.mark.parametrize("io_engine", ["psync", "io_uring", "sync"])
def test_an_engine_with_a_front_end_ends_quietly(image: Path, io_engine: str) -> None:
    control = image.parent / "control"
    with Engine(f"--blk-file={image}", f"--control={control}", f"--io-engine={io_engine}") as engine:
        with Frontend(engine.socket_path, request_timeout_s=DEADLINE_S) as disk:
            disk.write(0, bytes(4096))
            ControlClient(control).get()
            assert engine.end() == 0
        assert_quiet(engine.log())


# A backend of one's own.


def closing_disk(events: Path, *options: str) -> list[str]:
    return [
        "--backend=closing_disk:ClosingDisk",
        f"--backend-arg=size_bytes={DISK_BYTES}",
        f"--backend-arg=events={events}",
        *options,
    ]


def read_events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("io_engine", ["psync", "sync"])
def test_a_backend_is_closed_once_when_all_that_used_it_have_ended(tmp_path: Path, io_engine: str) -> None:
    events = tmp_path / "events"
    with Engine(*closing_disk(events, f"--io-engine={io_engine}")) as engine:
        with raw_frontend(engine) as frontend:
            assert frontend.queues[0].request(OUT, data=bytes(512))[0] == 0
        assert engine.end() == 0
        assert_quiet(engine.log())
        pid = engine.process.pid
    made, closed = read_events(events)
    assert made == {"event": "made", "pid": pid, "children": []}
    assert closed == {"event": "closed", "pid": pid, "children": []}


def test_a_backend_whose_close_fails_makes_the_status_1(tmp_path: Path) -> None:
    with Engine(*closing_disk(tmp_path / "events", "--backend-arg=fails=can't save")) as engine:
        assert engine.end() == 1
        assert "closing the backend failed" in engine.log()
        assert "RuntimeError: can't save" in engine.log()


@pytest.mark.parametrize(
    "option",
    ["--socket-path=/no/such/folder/socket", "--control=/no/such/folder/control", "--io-engine=io_uring"],
)
def test_a_backend_is_closed_when_the_start_fails(tmp_path: Path, option: str) -> None:
    events = tmp_path / "events"
    options = closing_disk(events, f"--socket-path={tmp_path / 'socket'}", option)
    done = run_program(*options)
    assert done.returncode != 0
    assert_quiet(done.stderr)
    assert [event["event"] for event in read_events(events)] == ["made", "closed"]


def test_a_backend_is_closed_when_the_engine_gives_up(tmp_path: Path) -> None:
    events = tmp_path / "events"
    way = f"--socket-path={tmp_path / 'socket'}"
    options = closing_disk(events, way, "--io-engine=psync", "--backend-arg=starts=no")
    done = run_program(*options, program=standing_workers.PROGRAM)
    assert done.returncode == 1
    assert "again and again" in done.stderr
    assert [event["event"] for event in read_events(events)] == ["made", "closed"]


# Programs that use the package.


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "dev", "-W", "ignore::ResourceWarning", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, env=environment())


OPEN_DISK = """
import os, sys, threading
from ringblk import Frontend, engine_command
disk = Frontend(engine_command(f"--blk-file={sys.argv[1]}", "--num-queues=2"), num_queues=2)
print(disk.backend_pid, flush=True)
disk.write(0, b"x" * 4096)
"""

ENDINGS = {
    "left open": "",
    "with requests in flight": "disk.submit_read(0, disk.allocate(512)); disk.submit()",
    "closed twice": "disk.close(); disk.close()",
    "an exit": "sys.exit(0)",
    "in a cycle": "disk.itself = disk",
    "a buffer left": "buffer = disk.allocate(512); kept = memoryview(buffer)",
    "a thread that waits": """
buffer = disk.allocate(512)
def wait():
    while True:
        disk.read(0, 512, queue_index=1)
threading.Thread(target=wait, daemon=True).start()
""",
    "a thread that has ended": """
thread = threading.Thread(target=disk.read, args=(0, 512))
thread.start()
thread.join()
""",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_with_a_front_end_ends_quietly_and_so_does_its_engine(image: Path, ending: str) -> None:
    done = run_python(OPEN_DISK + ENDINGS[ending], str(image))
    assert done.returncode == 0, done.stderr
    assert_quiet(done.stderr)
    pid = int(done.stdout)
    wait_gone([pid])


@pytest.mark.parametrize(
    "arguments",
    [
        ["stat"],
        ["stat", "--json"],
        ["top", "--frames=2", "--interval=0.05"],
        ["image", "info", "{image}"],
        ["image", "create", "{image}.new", "1M"],
        ["image", "export", "{image}", "{image}.raw"],
    ],
)
def test_a_tool_ends_quietly(image: Path, arguments: list[str]) -> None:
    program = str(Path(sys.executable).with_name("ringblk"))
    command = [program, *(word.format(image=image) for word in arguments)]
    with Engine("--backend=null", "--backend-arg=size_bytes=1048576"):
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
    assert_quiet(done.stderr)
    assert done.returncode == 0, done.stderr
