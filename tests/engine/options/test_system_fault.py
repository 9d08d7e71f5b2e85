"""Options that ask for what a system other than Linux has not, refused before anything is opened."""

import pytest

from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.options import system_fault
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.shm.platform.form import LINUX

DISK = {"socket_path": "s", "blk_file": "disk.img"}
REFUSED = {
    "--shared-dir /": {"socket_path": "s", "kind": "fs", "shared_dir": "/", "tag": "t"},
    "--uri nbd://host/disk": {"socket_path": "s", "uri": "nbd://host/disk"},
    "--uri nbd+unix:///disk?socket=s": {"socket_path": "s", "uri": "nbd+unix:///disk?socket=s"},
    "--io-engine io_uring": {**DISK, "io_engine": "io_uring"},
    "--io-engine io_uring_inline": {**DISK, "io_engine": "io_uring_inline"},
    "--sandbox on": {**DISK, "sandbox": "on"},
}
"""What is asked for, by the words that the refusal begins with."""
ABILITIES = ("HAS_FILE_HANDLES", "HAS_MESSAGE_BATCHES", "HAS_SANDBOX", "HAS_URING")


def lack_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a build of the portable forms does."""
    for ability in ABILITIES:
        monkeypatch.setattr(system_fault, ability, False)


@pytest.mark.parametrize("option", REFUSED)
def test_what_a_system_has_not_is_refused_in_one_line(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DriveConfig(**REFUSED[option])  # type: ignore[arg-type]
    if LINUX:
        config.check()
    lack_all(monkeypatch)
    with pytest.raises(ProgramError) as refused:
        config.check()
    text = str(refused.value)
    assert text.startswith(f"{option}: ")
    assert text.isprintable()
    assert text.endswith("this build has portable forms alone (docs/portability.md)")


@pytest.mark.parametrize("io_engine", ["auto", "psync", "sync"])
def test_all_else_is_let_through(io_engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lack_all(monkeypatch)
    for sandbox in ("auto", "off"):
        DriveConfig(**DISK, io_engine=io_engine, sandbox=sandbox).check()  # type: ignore[arg-type]
    DriveConfig(socket_path="s", uri="rbd:pool/disk").check()
