"""Each row of the fault table (docs/faults.md) has tests whose docstrings begin with its name."""

import ast
import functools
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROW = re.compile(r"^\| ((?:A|The) [^|(]+?)(?: \([^|]*\))? \| ", re.MULTILINE)
ROWS = ROW.findall((ROOT / "docs" / "faults.md").read_text())
OF_DISKS = {
    "A storage server goes away",
    "A process dies while layers change",
    "A layer is lost or damaged",
    "The power fails under an overlay",
    "The power fails under a drive whose changes are tracked",
}
"""Rows of storage that no folder has."""
OF_ALL = {"A broken invariant of our own"}
"""Rows in which nothing is of a kind: a test with disks is one of them all."""
OF_FOLDERS = sorted(set(ROWS) - OF_DISKS - OF_ALL)


@functools.cache
def documented_tests(path: Path) -> list[tuple[str, str]]:
    """The tests of a file that say something of themselves, and what."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    tests = [node for node in nodes if node.name.startswith("test_")]
    return [(node.name, text) for node in tests if (text := ast.get_docstring(node))]


def named_by(row: str, files: Iterable[Path]) -> list[str]:
    """The tests that name the row."""
    return [
        name
        for path in files
        for name, text in documented_tests(path)
        if re.match(rf"{re.escape(row)}\b", text)
    ]


def test_the_table_has_rows() -> None:
    assert len(ROWS) >= 8


@pytest.mark.parametrize("row", ROWS)
def test_a_row_has_a_test(row: str) -> None:
    assert named_by(row, (ROOT / "tests").rglob("test_*.py"))


@pytest.mark.parametrize("row", OF_FOLDERS)
def test_a_row_has_a_test_with_a_shared_folder(row: str) -> None:
    assert named_by(f"{row}, of a shared folder", (ROOT / "tests").rglob("test_*.py"))


def test_rows_that_are_not_of_folders_are_there() -> None:
    assert set(ROWS) > OF_DISKS | OF_ALL


def test_a_row_without_a_test_is_found(tmp_path: Path) -> None:
    path = tmp_path / "test_it.py"
    path.write_text('def test_it() -> None:\n    """A worker dies: it does."""\n')
    assert named_by("A worker dies", [path]) == ["test_it"]
    assert named_by("The dispatcher dies", [path]) == []
