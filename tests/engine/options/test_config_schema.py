"""The schema of the configuration file takes what the program takes, and refuses what it refuses."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ringblk.engine.base.number_text import SIZE_PATTERN, parse_size
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.options.config import FlatConfig
from ringblk.engine.options.config_file import read_config_file
from ringblk.engine.options.config_schema import config_schema
from ringblk.engine.options.drive_config import DriveConfig
from tests.rigs.json_schema import faults

SCHEMA = config_schema()
RINGBLK = str(Path(sys.executable).with_name("ringblk"))
VALUES: list[Any] = [
    None, True, 0, 1, -1, 5, 128, 1.5, 1 << 62, 1 << 70,
    "", "x", "4K", "0x1000", "raw", "on", "auto", "writeback",
    [], ["/tmp"], [1], {}, {"a": "b"}, {"a": 1},
    {"tokens": 5}, {"tokens": "5M", "period_ms": 3}, {"tokens": 0}, {"tokens": 5, "colour": 1},
    {"bandwidth": {"size": "1M", "refill_time": 100}}, {"ops": {"size": 5}},
]  # fmt: skip
LIMITER = {"bandwidth": {"size": "10M", "refill_time": 100}, "ops": {"size": 5, "refill_time": 1}}


def is_taken(folder: Path, values: object) -> bool:
    path = folder / "config.json"
    path.write_text(json.dumps(values))
    try:
        read_config_file(str(path))
    except ProgramError:
        return False
    return True


@pytest.mark.parametrize("field", [name for name in FlatConfig.__struct_fields__ if name != "rate_limiter"])
def test_every_field_of_an_engine_with_one_drive(tmp_path: Path, field: str) -> None:
    for value in VALUES:
        found = faults({field: value}, SCHEMA, SCHEMA)
        assert (found == []) == is_taken(tmp_path, {field: value}), (value, found)


@pytest.mark.parametrize("field", [name for name in DriveConfig.__struct_fields__ if name != "rate_limiter"])
def test_every_field_of_a_drive_in_a_list(tmp_path: Path, field: str) -> None:
    for value in VALUES:
        values = {"drives": {"vm1": {field: value}}}
        assert (faults(values, SCHEMA, SCHEMA) == []) == is_taken(tmp_path, values), value


@pytest.mark.parametrize(
    ("values", "is_right"),
    [
        ({"control": "/run/c", "drives": {}}, True),
        ({"drives": {"vm1": {"socket_path": "s", "blk_file": "b"}, "vm2": {"backend": "null"}}}, True),
        ({"drives": {"vm1": {"bps": "100M", "iops": 5, "rate_limiter": None}}}, True),
        ({"drives": {"vm1": {"rate_limiter": LIMITER}}, "log_format": "json"}, True),
        ({"rate_limiter": LIMITER}, True),
        ({"drives": {"vm1": {"iops": "5M"}}}, False),
        ({"drives": {"-vm1": {}}}, False),
        ({"drives": {"v" * 65: {}}}, False),
        ({"drives": {"a/b": {}}}, False),
        ({"drives": {"vm1\n": {}}}, False),
        ({"drives": {"": {}}}, False),
        ({"drives": []}, False),
        ({"drives": {}, "blk_file": "b"}, False),
        ({"drives": {"vm1": {"control": "c"}}}, False),
        ({"colour": 1}, False),
        ([], False),
    ],
)
def test_whole_files(tmp_path: Path, values: object, is_right: bool) -> None:
    assert (faults(values, SCHEMA, SCHEMA) == []) == is_taken(tmp_path, values) == is_right


@pytest.mark.parametrize(
    "limiter", [{"ops": {"size": "5M", "refill_time": 1}}, {"ops": {"size": 5}}, {"colour": 1}]
)
def test_a_limiter_is_in_firecracker_s_form(limiter: object) -> None:
    """The program says so once the file is read."""
    assert faults({"rate_limiter": limiter}, SCHEMA, SCHEMA)


@pytest.mark.parametrize(
    "text",
    [
        "1", "10G", "10 G", "10GiB", "10gib", "10B", "0x1F", "0b10", "0o7", " 5M ", "1\n",
        "5_0", "-1", "", "M", "1.5G", "1PB", "²",
    ],
)  # fmt: skip
def test_a_size_is_what_is_read_as_one(text: str) -> None:
    try:
        parse_size(text)
        is_size = True
    except ValueError:
        is_size = False
    assert (faults(text, {"pattern": SIZE_PATTERN}, {}) == []) == is_size


def test_the_program_prints_it() -> None:
    done = subprocess.run([RINGBLK, "schema"], capture_output=True, check=True)
    assert msgspec.json.decode(done.stdout) == SCHEMA
