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


def test_a_row_without_a_test_is_found(tmp_path: Path) -> None:
    path = tmp_path / "test_it.py"
    path.write_text('def test_it() -> None:\n    """A worker dies: it does."""\n')
    assert named_by("A worker dies", [path]) == ["test_it"]
    assert named_by("The dispatcher dies", [path]) == []
