"""What a service manager hands over and is told."""

import fcntl
import os
import socket
from pathlib import Path

import pytest

from ringblk.engine.base.service_manager import FIRST_FD, HandedSocket, ServiceManager, take_handed_sockets


@pytest.mark.parametrize("is_abstract", [False, True])
def test_it_is_told_at_a_path_or_an_abstract_name(tmp_path: Path, is_abstract: bool) -> None:
    name = f"@ringblk-test-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0") if is_abstract else name)
        environment = {"NOTIFY_SOCKET": name, "HOME": "/"}
        told = ServiceManager.from_environment(environment)
        assert environment == {"HOME": "/"}
        told.tell_ready("1 drive")
        assert manager.recv(4096) == b"READY=1\nSTATUS=1 drive"
        told.tell_status("1 drive")  # as it was
        told.tell_status("2 drives")
        assert manager.recv(4096) == b"STATUS=2 drives"
        told.tell_stopping("ending")
        assert manager.recv(4096) == b"STOPPING=1\nSTATUS=ending"


def test_without_a_manager_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    for environment in ({}, {"NOTIFY_SOCKET": ""}):
        ServiceManager.from_environment(environment).tell_ready("1 drive")
    assert caplog.text == ""


def test_a_manager_that_is_gone_or_full_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ServiceManager(str(tmp_path / "nobody")).tell_ready("1 drive")
    assert "the service manager cannot be told: No such file or directory" in caplog.text
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "full"))
        told = ServiceManager(str(tmp_path / "full"))
        for number in range(100_000):
            told.tell_status(str(number))
            if "Resource temporarily unavailable" in caplog.text:
                break
        assert "Resource temporarily unavailable" in caplog.text


def test_sockets_are_handed_over_by_name() -> None:
    with socket.socket(socket.AF_UNIX) as end:
        places = [FIRST_FD, FIRST_FD + 1]
        saved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) if _is_open(fd) else None for fd in places]
        try:
            for fd in places:
                os.dup2(end.fileno(), fd, inheritable=True)
            environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "vm1"}
            assert take_handed_sockets(environment) == [HandedSocket("vm1", 3), HandedSocket("unknown", 4)]
            assert environment == {}
            assert [os.get_inheritable(fd) for fd in places] == [False, False]
        finally:
            for fd, copy in zip(places, saved, strict=True):
                os.close(fd)
                if copy is not None:
                    os.dup2(copy, fd)
                    os.close(copy)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("variables", [{}, {"LISTEN_PID": "1"}, {"LISTEN_PID": "x"}, {"LISTEN_PID": "own"}])
def test_what_is_meant_for_another_process_is_left_alone(variables: dict[str, str]) -> None:
    count = "none" if variables.get("LISTEN_PID") == "own" else "1"
    environment = {**variables, "LISTEN_FDS": count}
    if variables.get("LISTEN_PID") == "own":
        environment["LISTEN_PID"] = str(os.getpid())
    assert take_handed_sockets(environment) == []
    assert environment == {}
