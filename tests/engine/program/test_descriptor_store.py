"""Sockets outlive all of an engine's processes in its service manager's descriptor store.

Fault model: SIGKILL of everything but the manager, while front ends and clients of the control API come, and
while front ends wait for their turn. The manager is a scripted one, that does as systemd does.
"""

import array
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rigs.child_process import ends_with_tests
from tests.rigs.control_client import ControlClient
from tests.rigs.engine_rig import DEADLINE_S, PROGRAM, environment
from tests.rigs.process_tree import kill_all_with, wait_none_with

DRIVE_BYTES = 1 << 16
LAUNCH = """
import os, sys
fds = [int(word) for word in sys.argv[1].split(",") if word]
for place, fd in enumerate([os.dup(fd) for fd in fds], 1000):
    os.dup2(fd, place)
for place in range(len(fds)):
    os.dup2(1000 + place, 3 + place)
os.closerange(3 + len(fds), 2000)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class Manager:
    """Keeps what it is given, and hands it to the next process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store: dict[str, int] = {}
        self.mark = f"RINGBLK_TEST={folder}"
        self._end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._end.bind(str(folder / "notify"))
        self._end.settimeout(DEADLINE_S)
        self.control = ControlClient(folder / "control")
        drives = {
            name: {
                "socket_path": str(folder / name),
                "backend": "memory",
                "backend_arg": {"size_bytes": str(DRIVE_BYTES)},
            }
            for name in ("vm1", "vm2")
        }
        config = {"drives": drives, "control": str(folder / "control")}
        (folder / "config").write_text(json.dumps(config))

    def start(self) -> "subprocess.Popen[bytes]":
        """Start the service, and wait until it is ready."""
        names, fds = list(self.store), list(self.store.values())
        process = subprocess.Popen(
            ends_with_tests(
                [
                    sys.executable,
                    "-c",
                    LAUNCH,
                    ",".join(map(str, fds)),
                    PROGRAM,
                    f"--config={self.folder}/config",
                ]
            ),
            pass_fds=fds,
            env={
                **environment(),
                "NOTIFY_SOCKET": str(self.folder / "notify"),
                "RINGBLK_TEST": str(self.folder),
                "LISTEN_FDS": str(len(fds)),
                "LISTEN_FDNAMES": ":".join(names),
            },
        )
        while not self.hear().startswith("READY=1"):
            pass
        return process

    def hear(self) -> str:
        """The next that it is told, with what is to be kept or not any more."""
        text, fds, _, _ = socket.recv_fds(self._end, 4096, 8)
        fields = dict(line.split("=", 1) for line in text.decode().splitlines())
        if "FDSTORE" in fields:
            (self.store[fields["FDNAME"]],) = fds
        elif "FDSTOREREMOVE" in fields:
            os.close(self.store.pop(fields["FDNAME"]))
        return text.decode()

    def hear_until_stored(self, count: int) -> None:
        while len(self.store) != count:
            self.hear()

    def close(self) -> None:
        kill_all_with(self.mark)
        self._end.close()
        for fd in self.store.values():
            os.close(fd)
        self.store.clear()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path)
    yield manager
    manager.close()


def connect(manager: Manager, name: str, sent: bytes = b"") -> socket.socket:
    end = socket.socket(socket.AF_UNIX)
    end.settimeout(DEADLINE_S)
    end.connect(str(manager.folder / name))
    end.send(sent)
    return end


ASKED = b"GET /drives HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
GET_FEATURES = array.array("I", [1, 1, 0]).tobytes()


def test_who_comes_while_nothing_runs_waits_for_the_next(manager: Manager) -> None:
    process = manager.start()
    assert len(manager.store) == 3
    first = connect(manager, "vm1", GET_FEATURES)
    assert first.recv(100)
    manager.hear_until_stored(4)
    manager.hear_until_stored(3)  # from now on its drive's process keeps it
    waiting = connect(manager, "vm1", GET_FEATURES)
    manager.hear_until_stored(4)
    kill_all_with(manager.mark)
    process.wait()
    wait_none_with(manager.mark)
    came, client = connect(manager, "vm2", GET_FEATURES), connect(manager, "control", ASKED)
    following = manager.start()
    for end in (waiting, came):
        assert end.recv(100)
    assert client.recv(12) == b"HTTP/1.1 200"
    for end in (first, waiting, came, client):
        end.close()
    following.terminate()
    assert following.wait() == 0
    manager.hear_until_stored(0)
    assert not (manager.folder / "vm1").exists()
