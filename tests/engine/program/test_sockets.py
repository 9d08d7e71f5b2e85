"""Sockets that an engine is to listen on or serve."""

import signal
import subprocess
from pathlib import Path

import pytest

from tests.rigs.child_process import ends_with_tests
from tests.rigs.engine_rig import (
    DEADLINE_S,
    MEMORY,
    PROGRAM,
    Engine,
    eventually,
    own_lines,
    raw_frontend,
    run_program,
)
from tests.rigs.inline_device import IN, OK


@pytest.mark.parametrize(
    ("socket_path", "said"),
    [
        ("/nowhere/socket", "No such file"),
        ("/dev/null", "a device or pipe is in the way"),
        ("/tmp/" + "x" * 200, "too long"),
    ],
)
def test_a_socket_that_cannot_be(socket_path: str, said: str) -> None:
    done = run_program(f"--socket-path={socket_path}", *MEMORY)
    assert done.returncode == 1
    assert own_lines(done).startswith(f"vhost-user-ringblk: --socket-path {socket_path}: ")
    assert said in done.stderr
    assert len(own_lines(done).splitlines()) == 1


@pytest.mark.parametrize("option", ["socket-path", "control"])
@pytest.mark.parametrize("obstacle", ["a folder", "a file", "a link to nothing"])
def test_what_is_in_a_sockets_way(tmp_path: Path, option: str, obstacle: str) -> None:
    path = tmp_path / "obstacle"
    if obstacle == "a folder":
        path.mkdir()
    elif obstacle == "a file":
        path.write_text("precious")
    else:
        path.symlink_to(tmp_path / "nothing")
    before = path.lstat().st_ino
    others = [] if option == "socket-path" else [f"--socket-path={tmp_path / 'socket'}"]
    done = run_program(f"--{option}={path}", *others, *MEMORY)
    assert done.returncode == 1
    assert own_lines(done) == f"vhost-user-ringblk: --{option} {path}: {obstacle} is in the way\n"
    assert path.lstat().st_ino == before


@pytest.mark.parametrize("fd", [0, 77])
def test_a_descriptor_that_is_no_socket(fd: int) -> None:
    done = run_program(f"--fd={fd}", *MEMORY)
    assert done.returncode == 1
    assert own_lines(done).startswith(f"vhost-user-ringblk: --fd {fd}: ")
    assert len(done.stderr.splitlines()) == 1


def test_the_path_of_a_living_engine_is_not_taken() -> None:
    with Engine(*MEMORY) as engine:
        done = run_program(f"--socket-path={engine.socket_path}", *MEMORY)
        assert done.returncode == 1
        assert "in use" in done.stderr
        with raw_frontend(engine) as frontend:
            assert frontend.queues[0].request(IN, read_bytes=512) == (OK, bytes(512))


def test_the_path_of_a_killed_engine_is_taken(tmp_path: Path) -> None:
    with Engine(*MEMORY) as engine:
        engine.end(signal.SIGKILL)
        assert engine.socket_path.exists()
        again = subprocess.Popen(ends_with_tests([PROGRAM, f"--socket-path={engine.socket_path}", *MEMORY]))
        try:
            eventually(engine.is_listening, "listening")
            again.terminate()
            assert again.wait(DEADLINE_S) == 0
            assert not engine.socket_path.exists()
        finally:
            again.kill()
            again.wait()
