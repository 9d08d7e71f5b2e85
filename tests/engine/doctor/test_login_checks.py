"""What logind.conf says of RemoveIPC, read as logind reads it."""

import os
from pathlib import Path

import pytest

from ringblk.engine.doctor import login_checks
from ringblk.engine.doctor.host_checks import Need
from ringblk.engine.doctor.login_checks import check_remove_ipc, removes_ipc
from ringblk.engine.options.drive_config import DriveConfig

NEED = Need(1, DriveConfig())


ON, OFF = "[Login]\nRemoveIPC=yes\n", "[Login]\nRemoveIPC=no\n"
MAIN, SHIPPED = "etc/logind.conf", "usr/logind.conf"


@pytest.mark.parametrize(
    ("files", "is_on"),
    [
        ({}, True),
        ({MAIN: "[Login]\n#RemoveIPC=no\n"}, True),
        ({MAIN: OFF}, False),
        ({MAIN: "[Login]\nRemoveIPC = Off\n"}, False),
        ({SHIPPED: OFF}, False),
        ({MAIN: "[Login]\n", SHIPPED: OFF}, True),
        ({MAIN: OFF, f"{SHIPPED}.d/a.conf": ON}, True),
        ({f"{SHIPPED}.d/a.conf": OFF, f"{MAIN}.d/a.conf": "[Login]\n"}, True),
        ({f"{MAIN}.d/a.conf": OFF, f"{SHIPPED}.d/b.conf": "RemoveIPC=yes\n"}, False),
    ],
)
def test_files_and_drop_ins(tmp_path: Path, files: dict[str, str], is_on: bool) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert removes_ipc((str(tmp_path / "etc/logind.conf"), str(tmp_path / "usr/logind.conf"))) == is_on


def test_it_is_of_concern_to_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login_checks, "LOGIND_RUNS", str(tmp_path))
    monkeypatch.setattr(login_checks, "LOGIND_FILES", (str(tmp_path / "logind.conf"),))
    monkeypatch.setattr(login_checks, "LINGER_FOLDER", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 424242)
    check = check_remove_ipc(NEED)
    assert check.state == "warning"
    assert "RemoveIPC=no" in check.mend
    (tmp_path / "424242").touch()
    assert check_remove_ipc(NEED).state == "ok"
    monkeypatch.setattr(os, "geteuid", lambda: 107)
    assert check_remove_ipc(NEED).state == "ok"
