import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ringblk.engine.load.load import Load, LoadFigures
from tests.bench.backends import BackendFailed
from tests.bench.comparison import RunSettings, interleave, summarize
from tests.bench.drives import in_turn, totals
from tests.bench.fleets import FleetSpec, storage_daemon_fleets
from tests.bench.fuse_client import fill_folder
from tests.bench.loads import MORE_LOADS, STANDARD_LOADS, load_named
from tests.bench.picture import draw
from tests.bench.report import print_ratios
from tests.bench.shares import LOADS as SHARE_LOADS
from tests.bench.shares import ShareFigures, compare, engine_spec, print_loads


def figures(iops: float, other_percent: float = 0.0) -> LoadFigures:
    return LoadFigures(
        request_count=round(iops),
        error_count=0,
        seconds=1.0,
        iops=iops,
        mib_per_s=iops / 256,
        mean_us=1e6 / iops,
        p50_us=1e6 / iops,
        p99_us=2e6 / iops,
        p999_us=3e6 / iops,
        driver_us_per_io=1.0,
        backend_us_per_io=2.0,
        other_percent=other_percent,
    )


def test_loads_are_named() -> None:
    assert load_named("randread-4k-qd32") == Load(depth=32)
    assert load_named("seqwrite-128k-qd8-q2") == Load(
        block_bytes=131072, depth=8, pattern="sequential", read_percent=0, num_queues=2
    )
    assert load_named("mixed70-64k-qd1") == Load(block_bytes=65536, read_percent=70)
    for name in (*STANDARD_LOADS, *MORE_LOADS):
        load_named(name)
    with pytest.raises(ValueError, match="no load"):
        load_named("randread-4k")


def test_runs_take_turns_and_the_quietest_count() -> None:
    calls = []
    noise = {"a": iter([50.0, 5.0, 1.0, 2.0]), "b": iter([3.0, 4.0])}

    def runner(name: str):  # type: ignore[no-untyped-def]
        def run(load: Load) -> LoadFigures:
            calls.append(name)
            return figures(1000.0, next(noise[name]))

        return run

    found = interleave(Load(), {"a": runner("a"), "b": runner("b")}, RunSettings(runs=2, tries=4))
    assert calls == ["a", "b", "a", "b", "a"]
    assert [run.other_percent for run in found["a"]] == [1.0, 5.0]


def test_tries_come_to_an_end_and_a_failure_loses_nobody_else(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(load: Load) -> LoadFigures:
        raise OSError("no such thing")

    settings = RunSettings(runs=1, tries=3)
    found = interleave(Load(), {"bad": fail, "noisy": lambda load: figures(10.0, 90.0)}, settings)
    assert found["bad"] == []
    assert len(found["noisy"]) == 1
    assert summarize("l", "tmpfs", "noisy", "qsd", found["noisy"], settings).disturbed
    assert capsys.readouterr().err.count("no such thing") == 1


def test_medians_spread_and_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    settings = RunSettings()
    ours = summarize(
        "randread-4k-qd1",
        "tmpfs",
        "ringblk",
        "ringblk",
        [figures(iops) for iops in (100.0, 300.0, 200.0)],
        settings,
    )
    assert ours.median.iops == 200.0
    assert ours.iops_spread == 1.0
    peers = [
        summarize("randread-4k-qd1", "tmpfs", name, "qsd", [figures(iops)], settings)
        for name, iops in (("slow", 50.0), ("best", 160.0))
    ]
    print_ratios([ours, *peers])
    line = capsys.readouterr().out.splitlines()[-1]
    assert "best" in line
    assert "1.25" in line
    assert line.endswith("MISSED")


def test_fleets_take_turns_and_who_fails_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    calls = []

    def measure(spec: FleetSpec) -> str:
        calls.append(spec.name)
        if spec.name == "bad":
            raise BackendFailed("no such thing")
        return spec.name

    specs = [FleetSpec(name, name, lambda sockets, images: []) for name in ("good", "bad")]
    assert in_turn(specs, 3, measure) == {"good": ["good"] * 3}
    assert calls == ["good", "bad", "good", "good"]
    assert capsys.readouterr().err == "bad: no such thing\n"


def test_busy_drives_are_summed_up() -> None:
    together = totals([figures(100.0), figures(300.0)])
    assert together.iops == 400.0
    assert together.slowest_part == pytest.approx(1 / 3)
    assert together.backend_us_per_io == pytest.approx(0.5)  # each was told the CPU time of all


def test_a_storage_daemon_serves_each_drive_or_all() -> None:
    sockets, images = [Path("/s0"), Path("/s1")], [Path("/i0"), Path("/i1")]
    lines = [spec.commands(sockets, images) for spec in storage_daemon_fleets(is_installed=True)]
    assert [len(commands) for commands in lines] == [2, 1, 1]
    for commands in lines:
        text = " ".join(word for command in commands for word in command)
        assert all(text.count(f"={path},") + text.count(f"={path} ") for path in (*sockets[:1], *images))


def test_the_picture_is_well_formed(tmp_path: Path) -> None:
    settings = RunSettings()
    lines = {
        name: [
            summarize(f"randread-4k-qd{depth}", "tmpfs", name, name, [figures(1000.0 * depth)], settings)
            for depth in (1, 8)
        ]
        for name in ("ringblk", "a & b")
    }
    draw(tmp_path / "picture.svg", "title", lines)
    root = ElementTree.fromstring((tmp_path / "picture.svg").read_text())
    assert len(root.findall("{http://www.w3.org/2000/svg}circle")) == 4


def test_shares_are_judged_by_medians(capsys: pytest.CaptureFixture[str]) -> None:
    def runs(*rates: float) -> list[ShareFigures]:
        return [ShareFigures(rate, 1.0, 2.0, 1e3 / rate, 0.1, 0.0, 0) for rate in rates]

    print_loads(
        {
            "read 32": {"ringblk": runs(900.0, 300.0, 200.0), "virtiofsd": runs(100.0)},
            "write 32": {"ringblk": runs(170.0), "virtiofsd": runs(100.0)},
            "other": {"virtiofsd": runs(1.0)},
        }
    )
    lines = capsys.readouterr().out.splitlines()
    assert "spread 233%" in lines[0]
    assert lines[0].endswith(": 3.00x, CPU 0.33x (2.0x at CPU 0.7x met)")
    assert lines[2].endswith("(1.8x MISSED)")
    assert "x, CPU" not in lines[1] + lines[3] + lines[4]


@pytest.mark.skipif(os.geteuid() != 0, reason="files are opened by their handles: root only")
def test_a_load_runs_on_a_share(tmp_path: Path) -> None:
    with TemporaryDirectory(dir="/dev/shm") as folder:
        fill_folder(folder)
        found = compare(Path(folder), [engine_spec("ringblk", ["--workers=1"])], SHARE_LOADS, 1, 0.05)
    assert set(found) == {load.name for load in SHARE_LOADS}
    for by_backend in found.values():
        (figures,) = by_backend["ringblk"]
        assert figures.rate > 0
        assert figures.error_count == 0
