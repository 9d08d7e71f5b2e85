"""`ringblk stat` in its formats, of engines that run and of segments that say what they like."""

import contextlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringblk.engine.statistics.stat_command import run_stat
from ringblk.shm.state.segment import SEGMENT_PREFIX, StateSegment
from ringblk.workers.block.parser import OPERATION_NAMES
from tests.rigs.engine_rig import DEADLINE_S, MEMORY, Engine
from tests.rigs.metrics_text import Family, read_metrics

RINGBLK = str(Path(sys.executable).with_name("ringblk"))


def stat(*arguments: str) -> str:
    done = subprocess.run(
        [RINGBLK, "stat", *arguments], capture_output=True, text=True, timeout=DEADLINE_S, check=True
    )
    assert done.stderr == ""
    return done.stdout


def capacities(families: dict[str, Family]) -> dict[tuple[str, str], float]:
    samples = families["ringblk_capacity_bytes"].samples
    return {(sample.labels["drive"], sample.labels["engine"]): sample.value for sample in samples}


@contextlib.contextmanager
def segment(drive: str, pid: int) -> Iterator[None]:
    """Another drive of an engine, or what pretends to be one."""
    name = f"{SEGMENT_PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}"
    with contextlib.closing(StateSegment.create(name, 64, 16, "block", OPERATION_NAMES)) as state:
        state.set_engine("", drive, pid, 1, 0)
        yield


def test_metrics_of_all_engines_without_a_control_socket() -> None:
    with Engine(*MEMORY) as first, Engine(*MEMORY) as second:
        found = capacities(read_metrics(stat("--format=prometheus")))
        for engine in (first, second):
            assert found["memory", str(engine.process.pid)] == 1 << 20
        only = capacities(read_metrics(stat("--format=prometheus", str(first.process.pid))))
        assert list(only) == [("memory", str(first.process.pid))]


def test_json_is_asked_for_in_two_ways() -> None:
    with Engine(*MEMORY) as engine:
        for option in ("--json", "--format=json"):
            (found,) = json.loads(stat(option, engine.segment_name))
            assert found["supervisor_pid"] == engine.process.pid


def test_a_series_stands_there_once_whatever_segments_say(capfd: pytest.CaptureFixture[str]) -> None:
    with segment("a", 7), segment("a", 7), segment("b", 7), segment('b"\n\\', 8):
        assert run_stat(None, "prometheus") == 0
    found = capacities(read_metrics(capfd.readouterr().out))
    assert {("a", "7"), ("b", "7"), ('b"\n\\', "8")} <= found.keys()


def test_no_engine_is_no_series_and_no_error(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringblk.engine.statistics.running_engines.all_segments", list)
    monkeypatch.setattr("ringblk.engine.statistics.running_engines.segments_of_others", dict)
    for stat_format, text in (("human", "no engine runs here\n"), ("json", "[]\n")):
        assert run_stat(None, stat_format) == 0  # type: ignore[arg-type]
        assert capfd.readouterr().out == text
    assert run_stat(None, "prometheus") == 0
    assert capacities(read_metrics(capfd.readouterr().out)) == {}
