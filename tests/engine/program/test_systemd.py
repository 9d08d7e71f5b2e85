"""The shipped unit under a real systemd: ready, restarts, the descriptor store, the filter of system calls.

Fault model: SIGKILL of the main process, and of all processes of the unit. systemd starts the next main
process; a guest goes on without having noticed in the first case, and in the second whoever connects while
nothing is left of the engine waits for the next one.

The manager is a user's: the unit's own view of the file system is for the system's alone, and is left out.
"""

import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringblk import Frontend
from ringblk.engine.vhost_user.codes import FrontendRequest
from ringblk.engine.vhost_user.messages import HEADER_BYTES, encode_message
from tests.rigs.engine_rig import DEADLINE_S, eventually
from tests.rigs.left_records import note_control_socket, note_socket
from tests.rigs.process_tree import children_of, wait_none_with, zygotes_of
from tests.rigs.separate_build import ROOT
from tests.rigs.user_manager import UserManager, why_not

WITHOUT_NAMESPACES = """[Unit]
ConditionPathExists=
[Service]
ExecStart=
ExecStart={program} serve --config={config}
Environment=RINGBLK_TEST={mark}
PrivateTmp=no
ProtectSystem=no
ProtectHome=no
ProtectControlGroups=no
ProtectKernelLogs=no
ProtectKernelModules=no
ProtectKernelTunables=no
ProtectHostname=no
ProtectClock=no
RuntimeDirectory=
StateDirectory=
"""


class Service:
    """The engine that the manager has started."""

    def __init__(self, manager: UserManager, unit: str, socket_path: Path) -> None:
        self.manager = manager
        self.unit = unit
        self.socket_path = socket_path

    @property
    def main_pid(self) -> int:
        return int(self.manager.show(self.unit, "MainPID"))

    def wait_next(self, former: int) -> None:
        """Wait for the main process after this one, which is ready."""
        eventually(
            lambda: (
                self.manager.show(self.unit, "SubState") == "running" and self.main_pid not in (0, former)
            ),
            "the next main process",
        )

    def frontend(self) -> Frontend:
        return Frontend(self.socket_path, memory_size_bytes=1 << 20, request_timeout_s=DEADLINE_S)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    if reason := why_not():
        pytest.skip(reason)
    unit = f"ringblk-{secrets.token_hex(6)}.service"
    mark = f"systemd-{unit}"
    socket_path, control = tmp_path / "s", tmp_path / "c"
    note_socket(socket_path)
    note_control_socket(control)
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    config = tmp_path / "engine.json"
    drive = {"socket_path": str(socket_path), "blk_file": str(image)}
    config.write_text(json.dumps({"control": str(control), "drives": {"vm1": drive}}))
    program = Path(sys.executable).parent / "ringblk"
    units = {
        unit: (ROOT / "share" / "systemd" / "ringblk.service").read_text(),
        f"{unit}.d/test.conf": WITHOUT_NAMESPACES.format(program=program, config=config, mark=mark),
    }
    with UserManager(tmp_path, units) as manager:
        manager.tell("start", unit)  # returns when it is ready
        try:
            yield Service(manager, unit, socket_path)
        finally:
            manager.tell("stop", unit)
    wait_none_with(f"RINGBLK_TEST={mark}")


def test_a_main_process_that_is_killed_is_followed_by_another(service: Service) -> None:
    assert service.manager.show(service.unit, "StatusText") == "1 drive, 0 front ends"
    with service.frontend() as disk:
        disk.write(0, b"1" * 512)
        former = service.main_pid
        os.kill(former, signal.SIGKILL)
        disk.write(512, b"2" * 512)
        service.wait_next(former)
        assert disk.read(0, 1024) == b"1" * 512 + b"2" * 512
        assert service.manager.show(service.unit, "StatusText") == "1 drive, 1 front end"


def test_the_store_has_the_sockets_while_nothing_is_left(service: Service) -> None:
    assert service.manager.show(service.unit, "NFileDescriptorStore") == "2"
    inode, former = service.socket_path.stat().st_ino, service.main_pid
    with socket.socket(socket.AF_UNIX) as early:
        early.settimeout(DEADLINE_S)
        os.kill(service.manager.process.pid, signal.SIGSTOP)  # nobody starts another
        try:
            (zygote,) = zygotes_of(former)
            for pid in (former, zygote, *children_of(zygote)):
                os.kill(pid, signal.SIGKILL)
            early.connect(str(service.socket_path))
            early.send(encode_message(FrontendRequest.GET_FEATURES))
        finally:
            os.kill(service.manager.process.pid, signal.SIGCONT)
        service.wait_next(former)
        assert len(early.recv(64)) == HEADER_BYTES + 8
    assert service.socket_path.stat().st_ino == inode
    with service.frontend() as disk:
        disk.write(0, b"3" * 512)
    service.manager.tell("stop", service.unit)
    assert service.manager.show(service.unit, "Result") == "success"
    assert service.manager.show(service.unit, "NFileDescriptorStore") == "0"
    assert not service.socket_path.exists()
    service.manager.tell("start", service.unit)
