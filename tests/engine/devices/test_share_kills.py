"""Processes of a shared folder die, and the guest's file system goes on.

Fault model: SIGKILL of a worker or the dispatcher at any instruction; the front end stays connected.
"""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.crash.crash_build import crash_build
from tests.crash.crash_plan import CrashPlan
from tests.rigs.engine_rig import Engine, eventually
from tests.rigs.separate_build import ROOT as PROJECT
from tests.rigs.share import GETATTR, ROOT, ShareError, ShareFrontend, errno_of, share_engine

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files are opened by their handles: root only")


class Guest:
    """An engine, the folder and a guest's file system."""

    def __init__(self, folder: Path, io_engine: str) -> None:
        self.folder = folder
        self.engine = share_engine(folder, f"--io-engine={io_engine}", "--workers=1")
        self.share = ShareFrontend(self.engine)

    def close(self) -> None:
        self.share.close()
        self.engine.__exit__(None, None, None)


@pytest.fixture
def start(shm_path: Path) -> Iterator[Callable[[str], Guest]]:
    started: list[Guest] = []

    def start_one(io_engine: str) -> Guest:
        started.append(Guest(shm_path, io_engine))
        return started[-1]

    yield start_one
    for guest in started:
        guest.close()


def kill_all(engine: Engine) -> None:
    """Kill each of the drive's processes, and wait until another one is there."""
    children = engine.children()
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: engine.children() and not engine.children() & children, "others in their place")


@pytest.mark.parametrize("io_engine", ["sync", "psync"])
def test_what_the_guest_knows_outlives_processes(start: Callable[[str], Guest], io_engine: str) -> None:
    """A worker dies, of a shared folder, and the dispatcher with it: inodes and lookup counts stay."""
    guest = start(io_engine)
    share = guest.share
    file, folder = share.create("file"), share.mkdir("folder")
    share.write(file.node_id, b"before")
    for _ in range(2):
        kill_all(guest.engine)
        assert share.read(file.node_id, 10) == b"before"
        share.create("again", folder.node_id)
        share.unlink("again", folder.node_id)
    share.forget(file.node_id)
    assert errno_of(GETATTR, share, file.node_id, bytes(16), 104) == "ESTALE"


@pytest.mark.parametrize("io_engine", ["sync", "psync"])
def test_a_file_without_a_name_outlives_processes(start: Callable[[str], Guest], io_engine: str) -> None:
    guest = start(io_engine)
    share = guest.share
    removed, replaced = share.create("removed"), share.create("replaced")
    for node_id in (removed.node_id, replaced.node_id):
        share.write(node_id, b"contents")
    share.unlink("removed")
    share.create("other")
    share.rename("other", "replaced")
    for _ in range(2):
        kill_all(guest.engine)
        assert share.read(removed.node_id, 10) == b"contents"
        assert share.read(replaced.node_id, 10) == b"contents"
    free = os.statvfs(guest.folder).f_ffree
    share.forget(removed.node_id)
    share.forget(replaced.node_id)
    share.getattr(ROOT)  # whoever has one open is told with the next request
    eventually(lambda: os.statvfs(guest.folder).f_ffree >= free + 2, "the files' end")


POINTS = [
    ("folder: name made", "mkdir"),
    ("folder: file created", "create"),
    ("folder: name removed", "unlink"),
    ("folder: renamed", "rename"),
    ("folder: linked", "link"),
    ("folder: name made", "symlink"),
    ("folder: count about to change", "mkdir"),
    ("folder: count changed", "create"),
    ("folder: inode added", "mkdir"),
    ("folder: held", "unlink"),
]


def carry_out(share: ShareFrontend, operation: str, node_id: int) -> None:
    match operation:
        case "mkdir":
            share.mkdir("made")
        case "create":
            share.create("made")
        case "unlink":
            share.unlink("file")
        case "rename":
            share.rename("file", "made")
        case "link":
            share.link(node_id, "made")
        case "symlink":
            share.symlink("made", "target")


@pytest.mark.parametrize(("point", "operation"), POINTS)
def test_what_cannot_be_done_twice_is_done_once(
    shm_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, operation: str
) -> None:
    """The dispatcher dies, of a shared folder, in the middle of a request: it succeeds once."""
    plan = CrashPlan(tmp_path / "plan")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(crash_build()), str(PROJECT)]))
    monkeypatch.setenv("RINGBLK_CRASH_FILE", str(plan.path))
    (shm_path / "file").write_text("text")
    guest = Guest(shm_path, "sync")
    try:
        node_id = guest.share.lookup("file").node_id
        plan.arm((point, 1))
        carry_out(guest.share, operation, node_id)
        assert plan.deaths == 1
        left: dict[str, set[str]] = {"unlink": set(), "rename": {"made"}}
        assert set(os.listdir(shm_path)) == left.get(operation, {"file", "made"})
        with pytest.raises(ShareError):
            carry_out(guest.share, operation, node_id)  # and is found to be done by who asks again
        if operation in ("mkdir", "create", "symlink"):
            made_id = guest.share.lookup("made").node_id
            guest.share.forget(made_id, 2)  # the request's, and this one's
            assert errno_of(GETATTR, guest.share, made_id, bytes(16), 104) == "ESTALE"
    finally:
        guest.close()
