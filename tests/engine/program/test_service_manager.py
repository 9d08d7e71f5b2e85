"""An engine under a service manager: it says when it is ready, and takes the sockets that it is given."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringblk.engine.frontend.frontend import Frontend
from ringblk.shm.platform.peer import peer_process_id
from tests.rigs.child_process import ends_with_tests
from tests.rigs.control_client import ControlClient
from tests.rigs.engine_process import wait_gone
from tests.rigs.engine_rig import (
    DEADLINE_S,
    MEMORY,
    MEMORY_BYTES,
    PROGRAM,
    Engine,
    accepts,
    eventually,
    raw_frontend,
)
from tests.rigs.process_tree import children_of, process_name, zygotes_of

MEMORY_DRIVE = {"backend": "memory", "backend_arg": {"size_bytes": str(MEMORY_BYTES)}}


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """Where a service manager would listen."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.settimeout(DEADLINE_S)
        yield end


def told(manager: socket.socket, last: str) -> list[str]:
    """What it is told, up to a state that is to come."""
    states = [manager.recv(4096).decode()]
    while states[-1] != last:
        states.append(manager.recv(4096).decode())
    return states


def test_the_manager_is_told_of_an_engines_life(manager: socket.socket, tmp_path: Path) -> None:
    program = ("env", f"NOTIFY_SOCKET={tmp_path / 'notify'}", PROGRAM)
    with Engine(*MEMORY, program=program) as engine:
        assert told(manager, "READY=1\nSTATUS=1 drive, 0 front ends") == [
            "READY=1\nSTATUS=1 drive, 0 front ends"
        ]
        assert engine.is_listening()
        with raw_frontend(engine):
            told(manager, "STATUS=1 drive, 1 front end")
        told(manager, "STATUS=1 drive, 0 front ends")
        engine.process.send_signal(signal.SIGTERM)
        told(manager, "STOPPING=1\nSTATUS=ending: 1 drive, 0 front ends")
        assert engine.process.wait(DEADLINE_S) == 0


def test_nobody_is_told_of_an_engine_that_cannot_begin(manager: socket.socket, tmp_path: Path) -> None:
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
    command = [PROGRAM, f"--socket-path={tmp_path}/no/where", *MEMORY]
    assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 1
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(4096)


class Handed:
    """A program that is handed listening sockets of these names, as a service manager does it."""

    def __init__(self, folder: Path, names: list[str], *options: str, after: "Handed | None" = None) -> None:
        """`after` is one whose sockets it has, in the place of others."""
        self.paths = [folder / name for name in names]
        self._ends: list[socket.socket] = [] if after is None else after._ends
        for path in self.paths if after is None else []:
            end = socket.socket(socket.AF_UNIX)
            end.bind(str(path))
            end.listen()
            self._ends.append(end)
        fds = [end.fileno() for end in self._ends]
        places = range(3, 3 + len(fds))
        variables = f"LISTEN_FDS={len(fds)} LISTEN_FDNAMES={':'.join(names)}"
        script = f'export LISTEN_PID=$$ {variables}; exec "$@"'

        def place() -> None:
            copies = [os.dup(fd) for fd in fds]  # none of them where another is to be
            for copy, fd in zip(copies, places, strict=True):
                os.dup2(copy, fd)

        self.process = subprocess.Popen(
            ends_with_tests(["sh", "-c", script, "sh", PROGRAM, *options]),
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=places,
            preexec_fn=place,
        )

    def end(self) -> str:
        """Have it end, if it has not; what it has said."""
        if self.process.poll() is None:
            self.process.terminate()
        _, said = self.process.communicate(timeout=DEADLINE_S)
        self.close_own()
        return said

    def close_own(self) -> None:
        """The manager listens no more itself."""
        for end in self._ends:
            end.close()


def test_the_only_drive_serves_the_only_socket(tmp_path: Path) -> None:
    handed = Handed(tmp_path, ["vm1"], *MEMORY)
    (path,) = handed.paths
    for _ in range(2):  # one front end after the other; the first may come before the engine is there
        with Frontend(str(path)) as disk:
            disk.write(0, b"x" * 4096)
            assert disk.read(0, 4096) == b"x" * 4096
    handed.end()
    assert handed.process.returncode == 0
    assert path.exists()  # the manager's, who goes on listening


def test_drives_of_a_list_serve_the_sockets_of_their_names(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    own = tmp_path / "own"
    drives = {"vm1": MEMORY_DRIVE, "vm2": MEMORY_DRIVE, "vm3": {**MEMORY_DRIVE, "socket_path": str(own)}}
    config.write_text(json.dumps({"drives": drives}))
    handed = Handed(tmp_path, ["vm2", "vm1"], f"--config={config}")
    second, first = handed.paths
    with Frontend(str(first)) as one, Frontend(str(second)) as other, Frontend(str(own)) as third:
        for number, disk in enumerate((one, other, third)):
            disk.write(0, bytes([number]) * 512)
        for number, disk in enumerate((one, other, third)):
            assert disk.read(0, 512) == bytes([number]) * 512
    said = handed.end()
    assert handed.process.returncode == 0, said


def with_manager(tmp_path: Path, *options: str, after: Handed | None = None) -> Handed:
    os.environ["NOTIFY_SOCKET"] = str(tmp_path / "notify")
    try:
        return Handed(tmp_path, ["vm2", "vm1"], *options, after=after)
    finally:
        del os.environ["NOTIFY_SOCKET"]


def two_drives(tmp_path: Path) -> str:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"drives": {"vm1": MEMORY_DRIVE, "vm2": MEMORY_DRIVE}}))
    return f"--config={config}"


def test_the_next_control_plane_has_the_same_sockets(tmp_path: Path) -> None:
    """Fault: SIGKILL of the supervisor. Who connects before the next one is there waits for it."""
    handed = Handed(tmp_path, ["vm2", "vm1"], two_drives(tmp_path))
    Frontend(str(handed.paths[0])).close()
    (zygote,) = zygotes_of(handed.process.pid)
    handed.process.kill()
    second, first = handed.paths
    with Frontend(str(first)) as one, Frontend(str(second)) as other:
        for number, disk in enumerate((one, other)):
            disk.write(0, bytes([number]) * 512)
            assert disk.read(0, 512) == bytes([number]) * 512
    (next_one,) = [pid for pid in children_of(zygote) if not process_name(pid).startswith("rb-")]
    os.kill(next_one, signal.SIGTERM)
    said = handed.end()  # which is at the end of what all its processes may say
    assert "the control plane has died; starting another" in said


def test_a_manager_starts_the_next_control_plane_itself(manager: socket.socket, tmp_path: Path) -> None:
    """Fault: SIGKILL of a service's main process; all its others go on or end by themselves."""
    handed = with_manager(tmp_path, two_drives(tmp_path))
    told(manager, "READY=1\nSTATUS=2 drives, 0 front ends")
    (zygote,) = zygotes_of(handed.process.pid)
    with Frontend(str(handed.paths[0])) as disk:
        disk.write(0, b"m" * 512)
        handed.process.kill()
        wait_gone([zygote])
        disk.write(512, b"m" * 512)
        following = with_manager(tmp_path, two_drives(tmp_path), after=handed)
        told(manager, "READY=1\nSTATUS=2 drives, 0 front ends")
        told(manager, "STATUS=2 drives, 1 front end")
        assert disk.read(0, 1024) == b"m" * 1024
        following.process.send_signal(signal.SIGTERM)
        disk.close()
    assert "it is for the service manager to start another" in handed.end()
    assert "the control plane before this one has left the drive with a front end" in following.end()


def test_a_socket_is_closed_with_its_drive(tmp_path: Path) -> None:
    """The zygote has had it, too, for the next control plane."""
    config = tmp_path / "config.json"
    control = ControlClient(tmp_path / "control")
    drives = {"vm1": MEMORY_DRIVE, "vm2": MEMORY_DRIVE}
    config.write_text(json.dumps({"drives": drives, "control": str(control.socket_path)}))
    handed = Handed(tmp_path, ["vm1", "vm2"], f"--config={config}")
    eventually(control.socket_path.exists, "the engine")
    assert control.ask_raw("DELETE", "/drives/vm1")[0] == 204
    handed.close_own()
    eventually(lambda: not accepts(handed.paths[0]), "nobody listens there")
    assert accepts(handed.paths[1])
    handed.process.kill()
    with Frontend(str(handed.paths[1])) as disk:
        disk.write(0, b"x" * 512)
    eventually(lambda: list(control.get("/drives")["drives"]) == ["vm2"], "the drives")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(control.socket_path))
        os.kill(peer_process_id(probe) or 0, signal.SIGTERM)
    handed.end()


@pytest.mark.parametrize(
    ("names", "options", "said"),
    [
        (["a", "b"], MEMORY, "hands over 2 sockets, and there is one drive"),
        (["a"], (*MEMORY, "--socket-path=/tmp/x"), "the drive has socket_path: leave that out"),
    ],
)
def test_a_socket_that_nobody_would_serve_is_one_line(
    tmp_path: Path, names: list[str], options: tuple[str, ...], said: str
) -> None:
    handed = Handed(tmp_path, names, *options)
    handed.process.wait(DEADLINE_S)
    (line,) = handed.end().splitlines()
    assert said in line
    assert handed.process.returncode == 2


def test_variables_of_another_process_mean_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "LISTEN_PID": "1", "LISTEN_FDS": "1"}
    command = [PROGRAM, *MEMORY]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "give one of --socket-path and --fd" in done.stderr
