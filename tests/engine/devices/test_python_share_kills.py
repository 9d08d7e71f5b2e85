"""Workers of a file system of a user's own die.

Fault model: SIGKILL of all the drive's processes between requests, and of a worker at the end of a method.
"""

import errno
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rigs.engine_rig import Engine, eventually
from tests.rigs.process_tree import drive_processes_of
from tests.rigs.python_share import Served, kept
from tests.rigs.share import ROOT, ShareError


def kill_all(engine: Engine) -> None:
    children = engine.children()
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: engine.children() and not engine.children() & children, "others in their place")


def test_kills_lose_nothing(start: Callable[..., Served], tmp_path: Path) -> None:
    served = start(*kept(tmp_path), "--workers=2")
    guest = served.guest
    node_id, folder_id = guest.create("file").node_id, guest.mkdir("folder").node_id
    for round_number in range(3):
        kill_all(served.engine)
        guest.write(node_id, b"%d" % round_number, round_number)
        guest.create(f"file {round_number}", folder_id)
    assert guest.read(node_id, 10) == b"012"
    assert sorted(guest.names_in(folder_id)) == [f"file {number}" for number in range(3)]


DEADLY = """
import os, signal
from kept_folder import KeptFolder
class Deadly(KeptFolder):
    "Dies over each change, once it is made; but for the first process that is told not to."
    def __init__(self, path: str, deaths: int):
        super().__init__(path)
        self.deaths_fd = os.open(path + ".deaths", os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self.deaths = deaths
    def die(self):
        if os.fstat(self.deaths_fd).st_size < self.deaths:
            os.write(self.deaths_fd, b"x")
            os.kill(os.getpid(), signal.SIGKILL)
    def mkdir(self, *arguments):
        try:
            return super().mkdir(*arguments)
        finally:
            self.die()
    def unlink(self, *arguments):
        try:
            super().unlink(*arguments)
        finally:
            self.die()
    def rename(self, *arguments):
        try:
            super().rename(*arguments)
        finally:
            self.die()
    def create(self, *arguments):
        try:
            return super().create(*arguments)
        finally:
            self.die()
"""


@pytest.mark.parametrize("operation", ["mkdir", "create", "unlink", "rename"])
def test_what_a_worker_has_died_over_is_done_once(
    start: Callable[..., Served], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    (tmp_path / "deadly.py").write_text(DEADLY)
    monkeypatch.chdir(tmp_path)
    arguments = (f"--file-system-arg=path={tmp_path / 'tree'}", "--file-system-arg=deaths=2", "--workers=1")
    if operation in ("unlink", "rename"):
        with_file = start(*kept(tmp_path))
        with_file.guest.create("file")
    guest = start("--file-system=deadly:Deadly", *arguments).guest
    match operation:
        case "mkdir":
            assert stat.S_ISDIR(guest.mkdir("made").attr.mode)
        case "create":
            assert stat.S_ISREG(guest.create("made").attr.mode)
        case "unlink":
            guest.unlink("file")
        case "rename":
            guest.rename("file", "made")
    assert os.path.getsize(tmp_path / "tree.deaths") == 2
    assert guest.names_in(ROOT) == ([] if operation == "unlink" else ["made"])


def test_a_request_over_which_workers_die_is_given_up(
    start: Callable[..., Served], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly.py").write_text(DEADLY)
    monkeypatch.chdir(tmp_path)
    arguments = (f"--file-system-arg=path={tmp_path / 'tree'}", "--file-system-arg=deaths=9", "--workers=1")
    served = start("--file-system=deadly:Deadly", *arguments)
    with pytest.raises(ShareError) as given_up:
        served.guest.mkdir("made")
    assert given_up.value.errno == errno.EIO
    assert served.guest.names_in(ROOT) == ["made"]
    assert drive_processes_of(served.engine.process.pid)
