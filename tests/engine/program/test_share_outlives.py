"""A guest works on a shared folder while processes of its engine die, and no front end connects again.

Fault model: SIGKILL of the control plane, of it and the zygote, of the drive's processes, at any moment; of
the whole engine. But for the last, each request is answered as if nobody had died: what was made is there,
once, and is what was written.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringblk.engine.vhost_user.codes import FrontendRequest, ProtocolFeature
from ringblk.engine.vhost_user.messages import encode_message, encode_shmem_config, encode_u64
from tests.rigs.control_client import stop_process
from tests.rigs.engine_process import wait_gone
from tests.rigs.engine_rig import DEADLINE_S, eventually
from tests.rigs.many_drives import ManyDrives
from tests.rigs.process_tree import wait_none_with, zygotes_of
from tests.rigs.share import GETATTR, ROOT, ShareFrontend, errno_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files are opened by their handles: root only")
NAME = "share"


def connect(engine: ManyDrives) -> ShareFrontend:
    connected = socket.socket(socket.AF_UNIX)
    connected.connect(str(engine.socket_path(NAME)))
    return ShareFrontend(connected)


class ShareLoad(threading.Thread):
    """Requests that cannot be done twice, one after the other, until it is told to stop."""

    def __init__(self, guest: ShareFrontend) -> None:
        super().__init__(daemon=True)
        self.guest = guest
        self.round_count = 0
        self.expected: dict[str, bytes] = {}
        self.failure: BaseException | None = None
        self._stops = threading.Event()

    def run(self) -> None:
        try:
            while not self._stops.is_set():
                self._go_round(self.round_count)
                self.round_count += 1
        except BaseException as error:
            self.failure = error

    def _go_round(self, number: int) -> None:
        guest, text = self.guest, b"round %d" % number
        folder = guest.mkdir(f"folder {number}")
        file = guest.create("new", folder.node_id)
        assert guest.write(file.node_id, text) == len(text)
        guest.rename("new", "renamed", folder.node_id, folder.node_id)
        assert guest.link(file.node_id, "linked", folder.node_id).attr.nlink == 2
        guest.symlink("symbolic", "renamed", folder.node_id)
        guest.unlink("linked", folder.node_id)
        guest.mkdir("empty", folder.node_id)
        guest.rmdir("empty", folder.node_id)
        assert guest.read(file.node_id, 100) == text
        assert guest.getattr(file.node_id).nlink == 1
        assert sorted(guest.names_in(folder.node_id)) == ["renamed", "symbolic"]
        guest.forget(file.node_id, 2)  # by CREATE and LINK
        self.expected[f"folder {number}/renamed"] = text

    def wait_rounds(self, count: int) -> None:
        """Wait until so many more have been gone."""
        wanted = self.round_count + count
        eventually(lambda: self.round_count >= wanted or self.failure, f"{count} rounds")
        self.check()

    def check(self) -> None:
        if self.failure is not None:
            raise AssertionError(f"round {self.round_count}") from self.failure

    def end(self, folder: Path) -> None:
        """Stop, and compare the folder with what was done."""
        self._stops.set()
        self.join(DEADLINE_S)
        assert not self.is_alive(), "it hangs"
        self.check()
        found = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and not path.is_symlink()
        }
        assert found == self.expected


@pytest.fixture
def start(shm_path: Path) -> Iterator[Callable[..., ManyDrives]]:
    started: list[ManyDrives] = []

    def start_one(io_engine: str, after: ManyDrives | None = None) -> ManyDrives:
        drive = {"kind": "fs", "shared_dir": str(shm_path), "tag": NAME, "workers": 2, "io_engine": io_engine}
        started.append(ManyDrives({NAME: drive}, after=after))
        started[-1].__enter__()
        return started[-1]

    yield start_one
    for engine in reversed(started):
        engine.__exit__(None, None, None)


def test_a_drive_of_a_list_tells_of_its_window(shm_path: Path) -> None:
    """The longest reply there is, to a session that is kept for the next control plane."""
    window_bytes = 8 << 20
    drive = {
        "kind": "fs",
        "shared_dir": str(shm_path),
        "tag": NAME,
        "dax": "always",
        "dax_window": window_bytes,
    }
    with ManyDrives({NAME: drive}) as engine, socket.socket(socket.AF_UNIX) as connected:
        connected.settimeout(DEADLINE_S)
        connected.connect(str(engine.socket_path(NAME)))
        features = ProtocolFeature.SHMEM | ProtocolFeature.BACKEND_SEND_FD
        connected.sendall(
            encode_message(FrontendRequest.SET_PROTOCOL_FEATURES, encode_u64(features))
            + encode_message(FrontendRequest.GET_SHMEM_CONFIG)
        )
        expected = encode_message(
            FrontendRequest.GET_SHMEM_CONFIG, encode_shmem_config([window_bytes]), reply=True
        )
        assert connected.recv(len(expected), socket.MSG_WAITALL) == expected


@pytest.mark.parametrize("io_engine", ["auto", "psync"])
def test_a_guest_goes_on_whoever_dies_but_the_zygote(
    start: Callable[..., ManyDrives], shm_path: Path, io_engine: str
) -> None:
    engine = start(io_engine)
    guest = connect(engine)
    load = ShareLoad(guest)
    load.start()
    load.wait_rounds(3)
    for _ in range(2):
        engine.kill_control_plane()
        load.wait_rounds(3)
        for pid in engine.processes(NAME):
            os.kill(pid, signal.SIGKILL)
        load.wait_rounds(3)
    load.end(shm_path)
    guest.close()
    engine.end()
    assert "Traceback" not in engine.log()


def test_a_guest_goes_on_when_control_plane_and_zygote_die(
    start: Callable[..., ManyDrives], shm_path: Path
) -> None:
    engine = start("psync")
    guest = connect(engine)
    load = ShareLoad(guest)
    load.start()
    load.wait_rounds(3)
    serving = engine.processes(NAME)
    (zygote,) = zygotes_of(engine.pid)
    stop_process(engine.pid)
    stop_process(zygote)
    for pid in (zygote, engine.pid):
        os.kill(pid, signal.SIGKILL)
    engine.process.wait()
    wait_gone([engine.pid, zygote])
    load.wait_rounds(3)
    after = start("psync", engine)
    assert serving & after.processes(NAME)
    load.wait_rounds(3)
    for pid in after.processes(NAME):
        os.kill(pid, signal.SIGKILL)
    load.wait_rounds(3)
    load.end(shm_path)
    guest.close()
    after.end()
    assert "Traceback" not in after.log()


def test_after_the_whole_engine_the_folder_is_as_it_was_left(
    start: Callable[..., ManyDrives], shm_path: Path
) -> None:
    """What the guest knew is lost with the last process; a guest that mounts anew finds what was answered."""
    engine = start("psync")
    guest = connect(engine)
    kept = guest.create("kept")
    guest.write(kept.node_id, b"answered")
    engine.kill()
    engine.process.wait()
    wait_none_with(engine.mark)
    guest.close()
    after = start("psync", engine)
    again = connect(after)
    assert errno_of(GETATTR, again, kept.node_id, bytes(16), 104) == "ESTALE"
    assert again.lookup("kept").node_id == kept.node_id
    assert again.read(kept.node_id, 100) == b"answered"
    assert again.names_in(ROOT) == ["kept"]
    again.close()
    after.end()
