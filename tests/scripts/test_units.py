"""The units in share/systemd: systemd takes them, and their filter has all that an engine does."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ringblk import Frontend, engine_command
from ringblk.engine.base.exit_status import ExitStatus
from tests.rigs.separate_build import ROOT

FOLDER = ROOT / "share" / "systemd"
SERVICES = ("ringblk.service", "ringblk@.service")
INSTANCES = {"ringblk.service": "ringblk.service", "ringblk@.service": "ringblk@vm1.service"}
each_service = pytest.mark.parametrize("name", SERVICES)
needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")


def settings(name: str) -> dict[str, list[str]]:
    """The settings of a unit, each with all its values."""
    found: dict[str, list[str]] = {}
    for line in (FOLDER / name).read_text().splitlines():
        if not line.startswith(("#", "[")) and "=" in line:
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@needs_systemd
def test_systemd_takes_them(tmp_path: Path) -> None:
    programs = Path(sys.executable).parent
    for path in FOLDER.iterdir():
        text = re.sub("^ExecStart=", f"ExecStart={programs}/", path.read_text(), flags=re.MULTILINE)
        (tmp_path / path.name).write_text(text)
        (tmp_path / path.name.replace("@.", "@vm1.")).write_text(text)
    units = ["ringblk.service", "ringblk@vm1.service", "ringblk@vm1.socket"]
    command = ["systemd-analyze", "verify", "--man=no", *(f"./{unit}" for unit in units)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "ringblk" in line]) == (0, [])


@each_service
def test_a_wrong_configuration_is_not_tried_again(name: str) -> None:
    found = settings(name)
    assert found["Restart"] == ["on-failure"]
    assert found["RestartPreventExitStatus"] == [str(int(ExitStatus.WRONG_OPTIONS))]


@each_service
def test_the_engine_ends_its_own_processes(name: str) -> None:
    """A signal to all of them would have the engine replace the children that it has killed."""
    assert settings(name)["KillMode"] == ["process" if name == "ringblk.service" else "mixed"]
    assert settings(name)["Type"] == ["notify"]


def test_both_services_are_held_to_the_same() -> None:
    own = {
        "Description",
        "ExecStart",
        "ConditionPathExists",
        "Requires",
        "After",
        "Documentation",
        "WantedBy",
    }
    own |= {"KillMode", "RuntimeDirectory", "RuntimeDirectoryPreserve", "RuntimeDirectoryMode"}
    own |= {"FileDescriptorStoreMax"}  # an engine for one drive stores nothing
    first, second = ({key: settings(name)[key] for key in settings(name).keys() - own} for name in SERVICES)
    assert first == second


def test_the_socket_is_where_the_documents_say() -> None:
    found = settings("ringblk@.socket")
    assert found["ListenStream"] == ["/run/ringblk/%i.sock"]
    assert found["FileDescriptorName"] == ["%i"]


def allowed_calls(names: list[str]) -> set[str]:
    """The system calls of a filter, its groups resolved."""
    allowed: set[str] = set()
    seen: set[str] = set()
    while names:
        name = names.pop()
        if not name.startswith("@"):
            allowed.add(name)
        elif name not in seen:
            seen.add(name)
            command = ["systemd-analyze", "syscall-filter", name]
            listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            names += [line.strip() for line in listed.splitlines()[1:] if not line.strip().startswith("#")]
    return allowed - {""}


@needs_systemd
@pytest.mark.skipif(not shutil.which("strace"), reason="no strace")
def test_the_filter_has_every_system_call_of_an_engine(tmp_path: Path) -> None:
    image, calls = tmp_path / "disk.img", tmp_path / "calls"
    image.write_bytes(bytes(1 << 20))
    trace = ["strace", "--follow-forks", "--quiet=all", "--signal=none", f"--output={calls}"]
    with Frontend([*trace, *engine_command(f"--blk-file={image}")]) as disk:
        disk.write(0, b"x" * 4096)
        disk.flush()
        disk.discard(0, 4096)
        assert disk.read(0, 512) == bytes(512)
    made = set(re.findall(r"^\d+ +([a-z]\w+)\(", calls.read_text(), re.MULTILINE))
    if not {"execve", "landlock_restrict_self", "io_uring_setup"} <= made:
        pytest.skip(f"no strace of everything here: {sorted(made)[:5]}")
    words = [word for value in settings("ringblk.service")["SystemCallFilter"] for word in value.split()]
    assert made - allowed_calls(words) == set()
