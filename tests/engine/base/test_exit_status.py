"""Exit statuses: what they are, and what is said of them."""

import re
from pathlib import Path

import pytest

from ringblk.engine.base.exit_status import MEANINGS, ExitStatus
from ringblk.engine.base.program_error import ProgramError
from tests.rigs.engine_rig import run_program

ROOT = Path(__file__).resolve().parents[3]


def test_each_has_a_meaning_and_stands_in_the_documents() -> None:
    assert MEANINGS.keys() == set(ExitStatus)
    rows = re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "operators.md").read_text(), re.MULTILINE)
    assert rows == [str(int(status)) for status in ExitStatus]


def test_an_error_is_a_wrong_option_unless_it_says_otherwise() -> None:
    assert ProgramError("").exit_status is ExitStatus.WRONG_OPTIONS


@pytest.mark.parametrize(
    ("options", "status"),
    [
        (("--print-capabilities",), ExitStatus.DONE),
        (("--blk-file=/nowhere", "--socket-path={folder}/s"), ExitStatus.FAILED),
        (
            ("--backend=null", "--backend-arg=size_bytes=4096", "--socket-path={folder}/x/s"),
            ExitStatus.FAILED,
        ),
        (("--blk-file=/nowhere",), ExitStatus.WRONG_OPTIONS),
        (("--blk-file=/nowhere", "--socket-path={folder}/s", "--workers=0"), ExitStatus.WRONG_OPTIONS),
        (("--config={folder}/config",), ExitStatus.WRONG_OPTIONS),
    ],
)
def test_what_programs_end_with(tmp_path: Path, options: tuple[str, ...], status: ExitStatus) -> None:
    (tmp_path / "config").write_text('{"workers": "many"}')
    done = run_program(*(option.format(folder=tmp_path) for option in options))
    assert done.returncode == status
