"""The files of tests that begin first are there: a name that is none would be passed over."""

from pathlib import Path

from tests.rigs.longest_files import LONGEST

TESTS = Path(__file__).resolve().parent


def test_the_files_that_begin_first_are_there() -> None:
    assert [name for name in LONGEST if not (TESTS / name).is_file()] == []
