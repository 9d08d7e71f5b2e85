"""Configuration files with a list of drives: what is wrong is one line that names the drive."""

import json
from pathlib import Path
from typing import Any

import pytest

from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.options.command_line import OptionParser, add_engine_options, config_from
from ringblk.engine.options.config import EngineConfig
from ringblk.engine.options.drive_names import NAME_RULE, is_drive_name
from tests.rigs.engine_rig import run_program

NULL = {"backend": "null", "backend_arg": {"size_bytes": "512"}}
GOOD: dict[str, Any] = {"socket_path": "/s", **NULL}
CONTROL = {"control": "/c"}


def config_of(path: Path, values: object, *options: str) -> EngineConfig:
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    parser = OptionParser(allow_abbrev=False)
    add_engine_options(parser)
    return config_from(parser.parse_args([f"--config={path}", *options]))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "engine.json"


def test_a_list_of_drives(path: Path) -> None:
    drives = {
        "vm1": {**GOOD, "iops": 5, "bps": "1M"},
        "vm.2": {**NULL, "socket_path": "/t", "bps_read": {"tokens": 7, "period_ms": 3}},
    }
    config = config_of(path, {**CONTROL, "log_format": "json", "drives": drives})
    assert (config.control, config.log_format, config.is_sole) == ("/c", "json", False)
    assert list(config.drives) == ["vm1", "vm.2"]
    limits = config.drives["vm1"].rate_limits()
    assert limits.bytes_total is not None
    assert limits.bytes_total.tokens == 1 << 20
    whole = config.drives["vm.2"].rate_limits().bytes_read
    assert whole is not None
    assert (whole.tokens, whole.period_ms) == (7, 3)


def test_toml(tmp_path: Path) -> None:
    text = """
        control = "/c"
        [drives.vm1]
        socket_path = "/s"
        blk_file = "/d"
        read_only = true
    """
    config = config_of(tmp_path / "engine.toml", text)
    assert config.drives["vm1"].read_only
    with pytest.raises(ProgramError, match=r"engine\.toml: Invalid value"):
        config_of(tmp_path / "engine.toml", "control = ")


def test_the_command_line_stands_over_what_is_of_the_engine(path: Path) -> None:
    values = {**CONTROL, "drives": {"vm1": GOOD}}
    config = config_of(path, values, "--control=/other", "--takeover", "--forget-changes")
    assert (config.control, config.takeover, config.forget_changes) == ("/other", True, True)
    with pytest.raises(ProgramError, match=r"--workers: .*engine\.json lists its drives: set it there"):
        config_of(path, values, "--workers=3")


GOOD_NAMES = ["vm1", "a", "_", "0", "A.b-c_d", "x" * 64]
BAD_NAMES = [
    *("", ".", "..", ".x", "-x", "a/b", "/etc/passwd", "../x", "a b", "a\n", "a\0", "é", "x" * 65, "x" * 300),
    *("a%2fb", "a\ud800"),
]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_names(name: str) -> None:
    assert is_drive_name(name)


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_names_that_are_refused(name: str, path: Path) -> None:
    with pytest.raises(ProgramError) as refused:
        config_of(path, {"drives": {name.encode(errors="replace").decode(): GOOD}})
    text = str(refused.value)
    assert NAME_RULE in text
    assert "\n" not in text
    assert repr(name.encode(errors="replace").decode()[:60])[1:-1] in text


WRONG: dict[str, tuple[dict[str, object], str]] = {
    "no object": ({"drives": []}, "`drives` is not an object of drives by name"),
    "drive is no object": ({"drives": {"vm1": 5}}, "drive vm1: not an object"),
    "no drives": ({"drives": {}}, "no drives, and without control none can be added"),
    "unknown key": ({"drives": {"vm1": {**GOOD, "wrokers": 1}}}, "drive vm1: .*wrokers"),
    "wrong type": ({"drives": {"vm1": {**GOOD, "workers": "x"}}}, r"drive vm1: .*workers"),
    "hyphens": (
        {"drives": {"vm1": {"socket-path": "/s"}}},
        "drive vm1: `socket-path` is written `socket_path`",
    ),
    "unknown key beside": ({"contrl": "/c", "drives": {}}, "contrl"),
    "of a drive": ({"workers": 1, "drives": {}}, "`workers` is of a drive: it stands below its name"),
    "of the engine": (
        {"drives": {"vm1": {**GOOD, "control": "/c"}}},
        "drive vm1: `control` is of the engine",
    ),
    "no socket": ({"drives": {"vm1": NULL}}, "drive vm1: give one of socket_path and fd"),
    "no storage": ({"drives": {"vm1": {"socket_path": "/s"}}}, "drive vm1: give one of blk_file and backend"),
    "queue size": ({"drives": {"vm1": {**GOOD, "queue_size": 100}}}, "drive vm1: queue_size 100"),
    "limits": (
        {"drives": {"vm1": {**GOOD, "iops_burst": 9}}},
        "drive vm1: iops_burst: is given without iops or iops_read or iops_write",
    ),
    "one socket": (
        {"drives": {"vm1": GOOD, "vm2": {**GOOD, "socket_path": "/../s"}}},
        r"drive vm2: socket_path /\.\./s is drive vm1's, too",
    ),
    "control's socket": (
        {"control": "/s", "drives": {"vm1": GOOD}},
        "drive vm1: socket_path /s is control's, too",
    ),
}


@pytest.mark.parametrize(("values", "named"), WRONG.values(), ids=WRONG)
def test_what_is_wrong(path: Path, values: dict[str, object], named: str) -> None:
    with pytest.raises(ProgramError, match=named) as refused:
        config_of(path, values)
    assert str(refused.value).startswith(f"--config {path}: ")
    assert refused.value.exit_status == 2
    assert "\n" not in str(refused.value)


def test_the_program_says_it_in_one_line(path: Path) -> None:
    path.write_text(json.dumps({"drives": {"a\nb": GOOD}}))
    done = run_program(f"--config={path}")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
