"""Drives whose bytes an NBD server keeps.

The fault model: a process of the drive is killed between any two instructions, with requests under way; the
server answers late, out of order, in pieces, wrongly, or is killed and started again. A write that the server
has received lands when the server likes, unless it has answered it.
"""

import os
import random
import threading
from pathlib import Path

import pytest

from ringblk import Frontend
from ringblk.engine.frontend.request import RequestFailed
from ringblk.engine.load.verified_load import LoadSettings, VerifiedLoad
from ringblk.workers.block.protocol import RequestStatus
from tests.rigs.engine_process import EngineProcess
from tests.rigs.engine_rig import DEADLINE_S, Engine, run_program
from tests.rigs.many_drives import ManyDrives
from tests.rigs.nbd_drive import SERVING, WAYS, finish, kill_client, run_load, submit_write
from tests.rigs.nbd_server import NbdServer, free_port, needs_nbd
from tests.rigs.scripted_nbd import (
    ALL_FLAGS,
    WRITE,
    NbdRequest,
    ScriptedNbd,
)

pytestmark = needs_nbd()
SIZE_BYTES = 8 << 20
BLOCK = 4096
NBDKIT = ["nbdkit", "-t", "8"]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.touch()
    os.truncate(path, SIZE_BYTES)
    return path


def server_command(program: str, image: Path) -> list[str]:
    if program == "nbdkit":
        return [*NBDKIT, "file", str(image)]
    return [program, "--shared=8", "--format=raw", "--discard=unmap", str(image)]


@pytest.mark.parametrize("io_engine", WAYS)
@pytest.mark.parametrize(
    ("program", "uses_tcp"),
    [
        pytest.param("nbdkit", False, marks=needs_nbd("nbdkit")),
        pytest.param("qemu-nbd", True, marks=needs_nbd("qemu-nbd")),
    ],
)
def test_a_verified_load(tmp_path: Path, image: Path, io_engine: str, program: str, uses_tcp: bool) -> None:
    with (
        NbdServer(tmp_path, server_command(program, image), free_port() if uses_tcp else None) as server,
        Engine(f"--uri={server.uri}", f"--io-engine={io_engine}", "--num-queues=2") as engine,
        Frontend(engine.socket_path, num_queues=2, request_timeout_s=DEADLINE_S) as disk,
    ):
        assert disk.capacity_bytes == SIZE_BYTES
        load = VerifiedLoad(disk, LoadSettings(max_blocks=16))
        run_load(load, 400)
        finish(load)
        disk.flush()
        assert disk.read(0, SIZE_BYTES) == image.read_bytes()


@pytest.mark.parametrize("io_engine", WAYS)
@needs_nbd("nbdkit")
def test_deaths_and_restarts_of_the_server_under_load(tmp_path: Path, image: Path, io_engine: str) -> None:
    chosen = random.Random(5)
    roles = ["dispatcher"] if io_engine == "sync" else ["dispatcher", "worker-0"]
    with (
        NbdServer(tmp_path, server_command("nbdkit", image)) as server,
        EngineProcess(tmp_path / "socket", [f"--uri={server.uri}", f"--io-engine={io_engine}"]) as engine,
        Frontend(str(engine.socket_path), request_timeout_s=DEADLINE_S) as disk,
    ):
        load = VerifiedLoad(disk, LoadSettings(max_blocks=16))
        for place in range(10):
            run_load(load, chosen.randrange(10, 60))
            if place % 3 == 2:
                server.restart()
            else:
                engine.kill(chosen.choice(roles))
        run_load(load, 50)
        finish(load)


class HeldAnswers:
    """Requests of the first process that serves the drive are held back, and carried out once let go."""

    def __init__(self, command: int) -> None:
        self._command = command
        self.may_go = threading.Event()

    def __call__(self, request: NbdRequest) -> None:
        """For `ScriptedNbd`."""
        if request.command == self._command and request.connection == SERVING:
            self.may_go.wait(DEADLINE_S)


@pytest.mark.parametrize("io_engine", WAYS)
def test_nothing_is_done_again_before_the_server_has_answered_the_dead(
    tmp_path: Path, io_engine: str
) -> None:
    held = HeldAnswers(WRITE)
    with (
        ScriptedNbd(tmp_path, answer=held) as server,
        EngineProcess(tmp_path / "socket", options(server, f"--io-engine={io_engine}")) as engine,
        Frontend(str(engine.socket_path), request_timeout_s=DEADLINE_S) as disk,
    ):
        token = submit_write(disk, 0, b"A" * BLOCK)
        assert server.wait(lambda: server.count(WRITE) == 1)
        kill_client(engine, io_engine)
        # A successor would connect: that is what it does first.
        assert not server.wait(lambda: len(server.connections) > SERVING + 1, timeout_s=1.0)
        held.may_go.set()
        assert disk.wait(token).status == RequestStatus.OK
        assert server.count(WRITE) == 2, "it is done again"
        disk.write(0, b"B" * BLOCK)
        assert disk.read(0, BLOCK) == b"B" * BLOCK


@pytest.mark.parametrize("is_structured", [False, True])
@pytest.mark.parametrize("sent_bytes", [0, 1, 16, 20, 29, 4000])
def test_the_dead_may_have_received_any_part_of_an_answer(
    tmp_path: Path, sent_bytes: int, is_structured: bool
) -> None:
    """The rest of it, and the answer to a write, are taken by the supervisor."""
    has_begun, may_go, has_ended = threading.Event(), threading.Event(), threading.Event()

    def answer(request: NbdRequest) -> bytes | None:
        if request.connection != SERVING:
            return None
        if request.command == WRITE:
            has_ended.wait(DEADLINE_S)
            return None
        whole = server.usual(request)
        server.connections[SERVING].sendall(whole[:sent_bytes])
        has_begun.set()
        may_go.wait(DEADLINE_S)
        server.connections[SERVING].sendall(whole[sent_bytes:])
        has_ended.set()
        return b""

    with (
        ScriptedNbd(tmp_path, answer=answer, is_structured=is_structured) as server,
        EngineProcess(tmp_path / "socket", options(server)) as engine,
        Frontend(str(engine.socket_path), request_timeout_s=DEADLINE_S) as disk,
    ):
        server.disk[:BLOCK] = b"r" * BLOCK
        buffer = disk.allocate(BLOCK)
        tokens = [disk.submit_read(0, buffer)]
        disk.submit()
        assert has_begun.wait(DEADLINE_S)
        tokens.append(submit_write(disk, BLOCK, b"A" * BLOCK))
        assert server.wait(lambda: server.count(WRITE) == 1)
        kill_client(engine, "sync")
        may_go.set()
        assert [disk.wait(token).status for token in tokens] == [RequestStatus.OK] * 2
        assert bytes(buffer.view) == b"r" * BLOCK
        assert "were not answered" not in engine.log


def options(server: ScriptedNbd, *more: str) -> list[str]:
    return [f"--uri={server.uri}", "--format=raw", *more]


def test_requests_fail_after_a_while_without_the_server(tmp_path: Path) -> None:
    """A storage server goes away: requests fail where that was asked for."""
    server = ScriptedNbd(tmp_path)
    with (
        Engine(*options(server, "--reconnect-s=0.2")) as engine,
        Frontend(engine.socket_path, request_timeout_s=DEADLINE_S) as disk,
    ):
        disk.write(0, b"x" * BLOCK)
        server.close()
        for _ in range(2):
            with pytest.raises(RequestFailed, match="IOERR"):
                disk.read(0, BLOCK)
        with ScriptedNbd(tmp_path) as other:
            assert other.wait(lambda: len(other.connections) == 1)
            disk.write(0, b"y" * BLOCK)
            assert other.disk[:BLOCK] == b"y" * BLOCK


def test_requests_wait_for_a_server_that_is_gone(tmp_path: Path) -> None:
    """A storage server goes away: requests wait, and are sent to it when it is back."""
    server = ScriptedNbd(tmp_path)
    with (
        EngineProcess(tmp_path / "socket", [f"--uri={server.uri}"]) as engine,
        Frontend(str(engine.socket_path), request_timeout_s=DEADLINE_S) as disk,
    ):
        disk.write(0, b"x" * BLOCK)
        server.close()
        token = submit_write(disk, BLOCK, b"y" * BLOCK)
        engine.wait_log("no connection")
        with ScriptedNbd(tmp_path) as other:
            assert disk.wait(token).status == RequestStatus.OK
            assert other.disk[: 2 * BLOCK] == bytes(BLOCK) + b"y" * BLOCK
        engine.wait_log("connected again")


def test_a_drive_of_a_list_is_served_across_control_planes(tmp_path: Path) -> None:
    """What a dispatcher owes the server is known to a control plane that has not started it."""
    held = HeldAnswers(WRITE)
    with ScriptedNbd(tmp_path, answer=held) as server, ManyDrives({}) as engine:
        status, answer = engine.put("vm1", uri=server.uri, format="raw")
        assert (status, answer["uri"], answer["state"]["storage"]) == (201, server.uri, server.uri)
        with engine.frontend("vm1") as disk:
            token = submit_write(disk, 0, b"A" * BLOCK)
            assert server.wait(lambda: server.count(WRITE) == 1)
            engine.kill_control_plane()
            engine.control.get("/drives")  # waits for the next one
            engine.kill_dispatcher("vm1")
            assert not server.wait(lambda: len(server.connections) > SERVING + 1, timeout_s=0.5)
            held.may_go.set()
            assert disk.wait(token).status == RequestStatus.OK
            assert disk.read(0, BLOCK) == b"A" * BLOCK


@pytest.mark.parametrize(
    ("uri", "fault"),
    [
        ("http://example.com/", "is neither nbd: nor rbd:"),
        ("nbd://127.0.0.1:1/", "Connection refused"),
        ("nbd+unix:///?socket=/nowhere", "No such file or directory"),
        ("nbd://127.0.0.1/?colour=red", "colour= is not known"),
    ],
)
def test_what_cannot_be_had_is_one_line(tmp_path: Path, uri: str, fault: str) -> None:
    done = run_program(f"--socket-path={tmp_path / 'socket'}", f"--uri={uri}")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"vhost-user-ringblk: --uri {uri}: ")
    assert fault in line


def test_a_read_only_export_is_a_read_only_drive(tmp_path: Path) -> None:
    with (
        ScriptedNbd(tmp_path, flags=ALL_FLAGS | 2) as server,
        Engine(*options(server)) as engine,
        Frontend(engine.socket_path, request_timeout_s=DEADLINE_S) as disk,
    ):
        with pytest.raises(RequestFailed, match="IOERR"):
            disk.write(0, b"x" * BLOCK)
        assert disk.read(0, BLOCK) == bytes(BLOCK)


def test_an_image_of_another_format_is_refused(tmp_path: Path) -> None:
    with ScriptedNbd(tmp_path) as server:
        server.disk[:8] = b"QFI\xfb\0\0\0\3"
        done = run_program(f"--socket-path={tmp_path / 'socket'}", f"--uri={server.uri}")
        assert done.returncode == 1
        assert "qcow2" in done.stderr
