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

from ringblk.engine.drives.engine_name import engine_name
from ringblk.engine.statistics.stat_command import run_stat
from ringblk.shm.state.reader import read_engine_name
from ringblk.shm.state.segment import SEGMENT_PREFIX, StateSegment
from ringblk.workers.block.parser import OPERATION_NAMES
from tests.rigs.control_client import ControlClient
from tests.rigs.engine_rig import DEADLINE_S, MEMORY, Engine
from tests.rigs.many_drives import ManyDrives
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
            assert found["memory", str(engine.socket_path)] == 1 << 20
        only = capacities(read_metrics(stat("--format=prometheus", str(first.process.pid))))
        assert list(only) == [("memory", str(first.socket_path))]


def test_an_engine_is_called_the_same_by_its_own_metrics(tmp_path: Path) -> None:
    """Also after its end: the next one at the socket goes on with its series."""
    control = ControlClient(tmp_path / "control.sock")
    with Engine(*MEMORY, f"--control={control.socket_path}") as engine:
        told = capacities(read_metrics(stat("--format=prometheus", str(engine.process.pid))))
        status, text = control.ask_raw("GET", "/metrics")
        assert status == 200
        assert capacities(read_metrics(text.decode())) == told
        assert list(told) == [("memory", str(control.socket_path))]
    with ManyDrives({"vm1": {}, "vm2": {}}) as many:
        told = capacities(read_metrics(stat("--format=prometheus", str(many.process.pid))))
        assert set(told) == {(name, str(many.control.socket_path)) for name in ("vm1", "vm2")}
        _, text = many.control.ask_raw("GET", "/metrics")
        assert capacities(read_metrics(text.decode())) == told


def test_an_engine_without_a_socket_of_its_own_is_called_by_its_process() -> None:
    with ManyDrives({"vm1": {}}, has_control=False) as many:
        pid = str(many.process.pid)
        assert list(capacities(read_metrics(stat("--format=prometheus", pid)))) == [("vm1", pid)]


def test_a_name_of_any_length_fits_and_stays_apart(state: StateSegment) -> None:
    names = [engine_name(f"/{'x' * length}{end}", None) for length in (253, 254, 300) for end in "ab"]
    names += [engine_name("/" + "ü" * 200, None), engine_name("/" + "\udcff" * 200, "/unused")]
    assert len(set(names)) == len(names)
    assert engine_name(None, "relative") == os.path.abspath("relative")
    assert engine_name(None, None) == ""
    for name in names:
        state.set_engine_name(name)
        assert read_engine_name(state) == name


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
