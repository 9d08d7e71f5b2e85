"""Front ends that are slow, silent or deaf: nobody else waits for them, and the engine ends when told to.

Fault model: the front end stops anywhere, holds on to its connection, and reads nothing.
"""

import contextlib
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringblk.engine.vhost_user.codes import FrontendRequest
from ringblk.engine.vhost_user.messages import encode_message
from tests.rigs.control_client import ControlClient
from tests.rigs.engine_rig import (
    DEADLINE_S,
    PROGRAM,
    Engine,
    EngineWithWorkers,
    RawFrontend,
    environment,
    eventually,
    raw_frontend,
)
from tests.rigs.inline_device import IN, OK


def silent(connected: socket.socket) -> None:
    """Connects and says nothing."""


def half_a_header(connected: socket.socket) -> None:
    connected.sendall(encode_message(FrontendRequest.GET_FEATURES)[:5])


def half_a_message(connected: socket.socket) -> None:
    connected.sendall(encode_message(FrontendRequest.SET_FEATURES, bytes(8))[:-1])


def deaf(connected: socket.socket) -> None:
    """Asks until the answers that it does not read fill the socket, and then its own questions do as well."""
    question = encode_message(FrontendRequest.GET_FEATURES)
    connected.settimeout(0.2)
    try:
        while True:
            connected.sendall(question * 100)
    except TimeoutError:
        pass


FRONT_ENDS = [silent, half_a_header, half_a_message, deaf]
MISBEHAVIOUR = Callable[[socket.socket], None]


@pytest.fixture
def engine(image: Path, tmp_path: Path) -> Iterator[Engine]:
    with EngineWithWorkers(
        f"--blk-file={image}", "--workers=1", f"--control={tmp_path / 'control'}"
    ) as engine:
        yield engine


def connect(engine: Engine, misbehave: MISBEHAVIOUR) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX)
    connected.connect(str(engine.socket_path))
    misbehave(connected)
    return connected


@pytest.mark.parametrize("misbehave", FRONT_ENDS)
def test_nobody_waits_for_it(engine: Engine, tmp_path: Path, misbehave: MISBEHAVIOUR) -> None:
    """The control API answers meanwhile, the next is served when it is gone, and SIGTERM ends the engine."""
    control = ControlClient(tmp_path / "control")
    with connect(engine, misbehave):
        assert control.get()["is_paused"] is False
        control.change("/workers", count=2)
    with raw_frontend(engine) as frontend:
        assert frontend.queues[0].request(IN, read_bytes=512)[0] == OK
    children = engine.children()
    with connect(engine, misbehave):
        assert engine.end() == 0
    engine.assert_nothing_left(children)


def test_a_channel_for_requests_of_ours_that_blocks(engine: Engine, tmp_path: Path) -> None:
    """It shares the socket that it gave and makes it block: the supervisor never waits in it."""
    control = ControlClient(tmp_path / "control")
    ours, given = socket.socketpair()
    with RawFrontend(engine) as frontend:
        frontend.negotiate()
        frontend.connection.command(FrontendRequest.SET_BACKEND_REQ_FD, fds=(given.fileno(),))
        with contextlib.suppress(BlockingIOError):
            while True:
                given.send(bytes(4096))
        given.setblocking(True)
        control.change("/drive", size_bytes=2 << 20)
        assert control.get()["is_paused"] is False
        assert engine.end() == 0
    ours.close()
    given.close()


@pytest.mark.parametrize("misbehave", FRONT_ENDS)
def test_it_makes_room_for_one_that_waits(engine: Engine, misbehave: MISBEHAVIOUR) -> None:
    with connect(engine, misbehave), raw_frontend(engine) as frontend:
        assert frontend.queues[0].request(IN, read_bytes=512)[0] == OK
        assert "another front end waits" in engine.log()


@pytest.mark.parametrize("misbehave", [half_a_message, deaf])
def test_another_engine_may_take_over(engine: Engine, image: Path, misbehave: MISBEHAVIOUR) -> None:
    with connect(engine, misbehave):
        options = [f"--socket-path={engine.socket_path}", f"--blk-file={image}", "--workers=1", "--takeover"]
        with subprocess.Popen([PROGRAM, *options], env=environment()) as successor:
            try:
                assert engine.process.wait(DEADLINE_S) == 0
                eventually(engine.is_listening, "the successor listening")
                with raw_frontend(engine) as frontend:
                    assert frontend.queues[0].request(IN, read_bytes=512)[0] == OK
            finally:
                successor.send_signal(signal.SIGTERM)
                assert successor.wait(DEADLINE_S) == 0
