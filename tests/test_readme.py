"""The README says what is true: its code runs, its table names every option, its links lead somewhere."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

from ringblk.engine.options.command_line import option_fields

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PYTHON_BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def test_the_own_backend_is_the_tested_one() -> None:
    assert (ROOT / "tests" / "rigs" / "backends" / "ram_disk.py").read_text() in PYTHON_BLOCKS


def test_the_own_file_system_is_the_tested_one() -> None:
    assert (ROOT / "tests" / "rigs" / "backends" / "word_folder.py").read_text() in PYTHON_BLOCKS


def test_the_front_end_example_runs(tmp_path: Path) -> None:
    (example,) = (block for block in PYTHON_BLOCKS if "Frontend(" in block)
    with (tmp_path / "disk.img").open("wb") as image:
        image.truncate(1 << 20)
    subprocess.run([sys.executable, "-c", example], cwd=tmp_path, check=True, timeout=60)


def test_the_table_has_every_option_with_its_default() -> None:
    rows = re.findall(r"^\| `--([a-z0-9-]+)` \| (\S*) ?\|", README, re.MULTILINE)
    expected = []
    for field in option_fields():
        default = "" if isinstance(field.default, bool) or field.default is None else str(field.default)
        if field.default is msgspec.NODEFAULT:  # a mutable default
            default = ""
        expected.append((field.name.replace("_", "-"), default))
    assert rows == expected


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_the_descriptor_is_of_this_program() -> None:
    descriptor = json.loads((ROOT / "share/qemu/vhost-user/50-ringblk.json").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert descriptor.keys() == {"description", "type", "binary"}
    assert descriptor["type"] == "block"
    assert Path(descriptor["binary"]).name in project["project"]["scripts"]
