"""Configuration files with a list of drives: what is wrong is one line that names the drive."""

import json
from pathlib import Path
from typing import Any

import pytest

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.options.command_line import OptionParser, add_engine_options, config_from
from ringblk.engine.options.config import EngineConfig
from ringblk.engine.options.config_file import read_config_file
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
    "no storage": (
        {"drives": {"vm1": {"socket_path": "/s"}}},
        "drive vm1: give one of blk_file, overlay, uri and backend",
    ),
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

for key in ("socket_path", "blk_file"):
    WRONG[f"NUL in {key}"] = (
        {"drives": {"vm1": {"socket_path": "/s", "blk_file": "/d", key: "/a\0b"}}},
        rf"drive vm1: {key} /a\\x00b: no path has a NUL in it",
    )
WRONG["NUL in sandbox_allow"] = (
    {"drives": {"vm1": {"socket_path": "/s", "backend": "a:B", "sandbox_allow": ["/t", "\0"]}}},
    r"drive vm1: sandbox_allow \\x00: no path",
)
WRONG["NUL in control"] = ({"control": "/a\0", "drives": {}}, r"--control /a\\x00: no path")
WRONG["no descriptor"] = ({"drives": {"vm1": {**NULL, "fd": 1 << 31}}}, r"drive vm1: .*`\$\.fd`")


@pytest.mark.parametrize(("values", "named"), WRONG.values(), ids=WRONG)
def test_what_is_wrong(path: Path, values: dict[str, object], named: str) -> None:
    with pytest.raises(ProgramError, match=named) as refused:
        config_of(path, values)
    assert str(refused.value).startswith(f"--config {path}: ")
    assert refused.value.exit_status == 2
    assert "\n" not in str(refused.value)


UNREADABLE = {
    "a drive twice": ("json", '{"drives": {"vm1": {}, "vm1": {}}}', "`vm1` stands twice in one object"),
    "a key twice": ("json", '{"drives": {"vm1": {"workers": 1, "workers": 2}}}', "`workers` stands twice"),
    "too deep": ("json", "[" * 100_000, "nested too deeply"),
    "too deep and whole": ("json", '{"a":' * 5000 + "1" + "}" * 5000, "nested too deeply"),
    "too deep in TOML": ("toml", "x = " + "[" * 100_000, "nested too deeply"),
    "a number of 5000 digits in TOML": ("toml", "x = " + "9" * 5000, "digits"),
    "no text": ("toml", "\udcff", "can't decode byte"),
    "a drive twice in TOML": ("toml", "[drives.vm1]\n[drives.vm1]", "twice"),
}


@pytest.mark.parametrize(("ending", "text", "named"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read(tmp_path: Path, ending: str, text: str, named: str) -> None:
    path = tmp_path / f"engine.{ending}"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(ProgramError, match=named) as refused:
        read_config_file(str(path))
    assert str(refused.value).startswith(f"--config {path}: ")
    assert refused.value.exit_status == ExitStatus.WRONG_OPTIONS
    assert "\n" not in str(refused.value)


def test_a_file_without_end() -> None:
    with pytest.raises(ProgramError, match="--config /dev/zero: is larger than"):
        read_config_file("/dev/zero")


def test_the_program_says_it_in_one_line(path: Path) -> None:
    path.write_text(json.dumps({"drives": {"a\nb": GOOD}}))
    done = run_program(f"--config={path}")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
