"""`scripts/run` as a person types it, less its set-up."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from ringblk.engine.load.verified_load import VerifiedLoad
from ringblk.shm.segments.shared_folder import shared_names
from ringblk.shm.state.segment import SEGMENT_PREFIX
from scripts import run_engine

PROGRAM = Path(run_engine.__file__)
QUICK = ("--seconds=0.2", "--size-mib=32", "--depth=4", "--workers=2", "--direct=off")


def run(*options: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, PROGRAM, *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment,
    )


def test_a_run_prints_what_was_done() -> None:
    result = run(*QUICK)
    assert result.returncode == 0, result.stdout + result.stderr
    rows = [line.replace("│", " ").split() for line in result.stdout.splitlines() if line.startswith("│")]
    assert {row[0] for row in rows} >= {"IN", "OUT", "all", "0", "1"}
    assert "no fault" in result.stdout


def test_a_named_image_stays(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    assert run(*QUICK, f"--file={image}").returncode == 0
    assert image.stat().st_size == 32 << 20


def test_an_image_that_exists_is_left_alone(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(b"precious")
    result = run(*QUICK, f"--file={image}")
    assert result.returncode == 2
    assert result.stderr == f"run: {image} exists already, and the load would write over it\n"
    assert image.read_bytes() == b"precious"


@pytest.mark.parametrize("options", [("--workers=0",), ("--size-mib=1", "--depth=64"), ("--frobnicate",)])
def test_what_cannot_be_run_is_said(options: tuple[str, ...]) -> None:
    result = run(*QUICK, *options)
    assert result.returncode == 2
    assert result.stdout == ""


def test_a_wrong_block_is_exit_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def corrupt(load: VerifiedLoad, size_bytes: int, console: Console) -> None:
        with (tmp_path / "disk.img").open("r+b") as file:
            file.seek(4096)
            file.write(b"not what was written")

    monkeypatch.setattr(run_engine, "check_disk", corrupt)
    options, _ = run_engine.parse_options([*QUICK, f"--file={tmp_path / 'disk.img'}"])
    with run_engine.new_image(options.file, 32 << 20) as image:
        assert run_engine.run_load(image, options, Console(width=200)) == 1
    assert "block 1 (at 4096) should hold" in capsys.readouterr().out


def test_a_run_that_is_ended_leaves_nothing_behind() -> None:
    program = subprocess.Popen(
        [sys.executable, PROGRAM, *QUICK, "--seconds=1000"], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    while not (engine := children(program.pid)) or segment_of(engine[0]) not in shared_names(SEGMENT_PREFIX):
        assert program.poll() is None
    program.send_signal(signal.SIGTERM)
    assert program.wait(30) == 128 + signal.SIGTERM
    assert not Path(f"/proc/{engine[0]}").exists()
    assert segment_of(engine[0]) not in shared_names(SEGMENT_PREFIX)


def segment_of(pid: int) -> str:
    return f"{SEGMENT_PREFIX}{pid}"


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
