"""`ringblk list`: every drive on a line, as it is, in a terminal of 80 columns too."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ringblk.engine.statistics.list_command import ListedDrive, list_lines, run_list
from ringblk.engine.statistics.running_engines import RunningEngines
from tests.rigs.control_client import ControlledEngine
from tests.rigs.engine_rig import DEADLINE_S, MEMORY, Engine, eventually, raw_frontend
from tests.rigs.terminal import Terminal

RINGBLK = str(Path(sys.executable).with_name("ringblk"))
LARGEST = ListedDrive(
    drive="/images/" + "x" * 300,
    storage="/images/" + "x" * 300,
    state="connected",
    is_connected=True,
    is_paused=False,
    broken_queues=[],
    capacity_bytes=(1 << 63) - 512,
    supervisor_pid=4194304,
    uptime_ns=9999 * 86400 * 10**9,
    name="ringblk-engine-4194304",
)


@pytest.fixture
def controlled(tmp_path: Path) -> Iterator[ControlledEngine]:
    engine = ControlledEngine(tmp_path, "--workers=1")
    yield engine
    engine.close()


def listed(pid: int | None) -> dict[str, Any]:
    done = subprocess.run(
        [RINGBLK, "list", "--format=json"], capture_output=True, text=True, timeout=DEADLINE_S, check=True
    )
    (drive,) = (drive for drive in json.loads(done.stdout) if drive["supervisor_pid"] == pid)
    found: dict[str, Any] = drive
    return found


def test_a_drive_waits_and_is_connected_and_waits_again() -> None:
    with Engine(*MEMORY) as engine:
        pid = engine.process.pid
        eventually(lambda: listed(pid)["state"] == "waiting", "the end of the rig's session")
        with raw_frontend(engine):
            drive = listed(pid)
            assert (drive["state"], drive["is_connected"], drive["is_paused"]) == ("connected", True, False)
            assert (drive["drive"], drive["capacity_bytes"]) == ("memory", 1 << 20)
            assert drive["name"] == engine.segment_name
            assert drive["uptime_ns"] > 0
        eventually(lambda: listed(pid)["state"] == "waiting", "the end of the session")


def test_a_paused_drive(controlled: ControlledEngine) -> None:
    pid = controlled.frontend.backend_pid
    assert listed(pid)["state"] == "connected"
    controlled.control.post("/pause")
    assert (listed(pid)["state"], listed(pid)["is_connected"]) == ("paused", True)


def test_a_broken_queue_is_said_first() -> None:
    with Engine(*MEMORY) as engine, raw_frontend(engine) as frontend:
        frontend.queues[0].driver.avail_idx = 1 << 15  # more than the ring has
        frontend.queues[0].kick()
        eventually(lambda: listed(engine.process.pid)["state"] == "broken", "the broken queue")
        assert listed(engine.process.pid)["broken_queues"] == [0]


def test_what_is_of_no_engine_is_not_listed() -> None:
    with Engine(*MEMORY) as engine:
        pid = engine.process.pid
        assert listed(pid)
    eventually(  # the last of its processes ends a moment after the first
        lambda: pid not in [snapshot.supervisor_pid for snapshot in RunningEngines().snapshots()], "its end"
    )


@pytest.mark.parametrize("width", [60, 80, 200, None])
def test_numbers_are_whole_at_any_width(width: int | None) -> None:
    small = msgspec.structs.replace(
        LARGEST, drive="memory", storage="memory", capacity_bytes=512, uptime_ns=0
    )
    lines = list_lines([LARGEST, small], width)
    assert len(lines) == 3
    assert max(map(len, lines)) <= (width or 400)
    words = lines[1].split()
    assert words[1:] == ["connected", "8388608", "TiB", "4194304", "9999d00h"]
    assert (words[0] == LARGEST.drive) == (width is None)
    assert words[0].endswith("x" * 8)
    assert lines[2].split() == ["memory", "connected", "512", "B", "4194304", "0s"]


def test_a_drive_with_a_name_has_an_image_beside_it() -> None:
    named = msgspec.structs.replace(LARGEST, drive="vm1")
    titles, line, other = list_lines([named, LARGEST], 80)
    assert titles.split() == ["drive", "state", "size", "pid", "up", "image"]
    assert line.split()[0] == "vm1"
    assert re.fullmatch("…x+", line.split()[-1])
    assert other.endswith("9999d00h")
    assert max(map(len, (titles, line, other))) <= 80


def test_a_terminal_of_80_columns(tmp_path: Path) -> None:
    image = tmp_path / ("long" * 30) / "disk.img"
    image.parent.mkdir()
    image.write_bytes(bytes(1 << 20))
    with Engine(f"--blk-file={image}") as engine:
        # As many lines as there may be drives on this machine, of other tests as well.
        with Terminal([RINGBLK, "list"], lines=2000) as terminal:
            assert terminal.wait_end() == 0
            (line,) = (line for line in terminal.screen.text if f" {engine.process.pid} " in line)
        assert line.startswith("…")
        assert "long/disk.img  " in line
        assert "1.00 MiB" in line
        unbounded = {name: text for name, text in os.environ.items() if name != "COLUMNS"}
        piped = subprocess.run(
            [RINGBLK, "list"], capture_output=True, text=True, check=True, env=unbounded
        ).stdout
        assert str(image) in piped


def test_a_name_is_text_and_no_more() -> None:
    evil = msgspec.structs.replace(LARGEST, drive="/a\n\x1b[2Jb", storage="/a\n\x1b[2Jb")
    assert list_lines([evil], 80)[1].split()[0] == r"/a\n\x1b[2Jb"


def test_nothing_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringblk.engine.statistics.running_engines.all_segments", list)
    monkeypatch.setattr("ringblk.engine.statistics.running_engines.segments_of_others", dict)
    assert run_list("human") == 0
    assert capsys.readouterr().out == "no engine runs here\n"
    assert run_list("json") == 0
    assert capsys.readouterr().out == "[]\n"
