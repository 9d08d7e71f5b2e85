"""Sockets outlive the control plane: whoever comes while there is none, or has just come, is not turned away.

Fault model: SIGKILL of the supervisor while connections wait to be accepted, while accepted ones wait for
their turn, while nobody is there to accept, and after the zygote has died, too. While the zygote is stopped
there is no control plane.
"""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ringblk.engine.vhost_user.codes import FrontendRequest
from ringblk.engine.vhost_user.messages import HEADER_BYTES, decode_header, encode_message
from tests.rigs.engine_process import wait_gone
from tests.rigs.engine_rig import DEADLINE_S, accepts, eventually
from tests.rigs.many_drives import STARTED, ManyDrives
from tests.rigs.process_tree import has_ended, zygotes_of

BLOCK = b"s" * 4096


@pytest.fixture
def engine() -> Iterator[ManyDrives]:
    with ManyDrives({"vm1": {}, "vm2": {}}) as engine:
        yield engine
        assert "Traceback" not in engine.log()


class Caller:
    """A front end that connects and asks for the features, and may wait for the answer."""

    def __init__(self, engine: ManyDrives, name: str) -> None:
        self._end = socket.socket(socket.AF_UNIX)
        self._end.settimeout(DEADLINE_S)
        self._end.connect(str(engine.socket_path(name)))
        self._end.send(encode_message(FrontendRequest.GET_FEATURES))

    def is_answered(self) -> bool:
        """Wait for the answer; False: it was turned away."""
        try:
            header = self._end.recv(HEADER_BYTES, socket.MSG_WAITALL)
        except ConnectionResetError:
            return False
        if len(header) < HEADER_BYTES:
            return False
        size_bytes = decode_header(header).payload_bytes
        return len(self._end.recv(size_bytes, socket.MSG_WAITALL)) == size_bytes

    def close(self) -> None:
        self._end.close()

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


@contextmanager
def no_control_plane(engine: ManyDrives) -> Iterator[None]:
    """Kill it; the next one comes afterwards."""
    (zygote,) = zygotes_of(engine.pid)
    lines = engine.log().count(STARTED)
    os.kill(zygote, signal.SIGSTOP)
    try:
        os.kill(engine.pid, signal.SIGKILL)
        eventually(lambda: has_ended(engine.pid), "its death")
        yield
    finally:
        os.kill(zygote, signal.SIGCONT)
    engine.wait_restarted(lines + 1)


def waiting_count(engine: ManyDrives) -> int:
    """How many sockets of the engine's names the zygote keeps: the served front ends' are among them."""
    (zygote,) = zygotes_of(engine.pid)
    links = [os.readlink(f"/proc/{zygote}/fd/{fd}") for fd in os.listdir(f"/proc/{zygote}/fd")]
    lines = Path("/proc/net/unix").read_text().splitlines()  # proc(5): the inode is the seventh field
    named = {f"socket:[{line.split()[6]}]" for line in lines if f" {engine.folder}/" in line}
    return sum(link in named for link in links)


def count_at_rest(engine: ManyDrives) -> int:
    """The same with nobody there: two drives and the control API listen."""
    eventually(lambda: waiting_count(engine) == 3, "the custody of what listens")
    return 3


def test_who_comes_while_there_is_none_waits_for_the_next(engine: ManyDrives) -> None:
    with no_control_plane(engine):
        callers = [Caller(engine, name) for name in ("vm1", "vm2")]
    for caller in callers:
        with caller:
            assert caller.is_answered()
    with engine.frontend("vm1") as disk:
        disk.write(0, BLOCK)
        assert disk.read(0, 4096) == BLOCK
    engine.end()
    assert list(engine.folder.glob("*.sock")) == []


def test_who_was_not_accepted_yet_is_accepted_by_the_next(engine: ManyDrives) -> None:
    os.kill(engine.pid, signal.SIGSTOP)
    with Caller(engine, "vm1") as caller:
        engine.kill_control_plane()
        assert caller.is_answered()


def test_who_waits_for_a_turn_waits_on(engine: ManyDrives) -> None:
    """The first is served all the time, the others in their order; each death is another's."""
    before = count_at_rest(engine)
    with engine.frontend("vm1") as disk:
        disk.write(0, BLOCK)
        callers = [Caller(engine, "vm1") for _ in range(3)]
        for _ in range(2):
            eventually(lambda: waiting_count(engine) == before + 3 + 1, "their custody")
            engine.kill_control_plane()
            assert disk.read(0, 4096) == BLOCK
    for caller in callers:
        with caller:
            assert caller.is_answered()
    eventually(lambda: waiting_count(engine) == before, "nothing is kept")


def test_a_client_of_the_control_api_waits_for_the_next(engine: ManyDrives) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE_S)
        with no_control_plane(engine):
            client.connect(str(engine.control.socket_path))
            client.send(b"GET /drives HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert client.recv(64).startswith(b"HTTP/1.1 200 ")


def test_another_zygote_has_them_as_well(engine: ManyDrives) -> None:
    """Fault: SIGKILL of the zygote, then of the supervisor."""
    before = count_at_rest(engine)
    with engine.frontend("vm1") as disk, Caller(engine, "vm1") as caller:
        eventually(lambda: waiting_count(engine) == before + 1 + 1, "its custody")
        (first,) = zygotes_of(engine.pid)
        os.kill(first, signal.SIGKILL)
        wait_gone([first])
        eventually(lambda: zygotes_of(engine.pid) not in ([], [first]), "the next zygote")
        with no_control_plane(engine):
            other = Caller(engine, "vm2")
        with other:
            assert other.is_answered()
        disk.close()
        assert caller.is_answered()


def test_a_drive_that_is_removed_is_listened_for_no_more(engine: ManyDrives) -> None:
    before = count_at_rest(engine)
    assert engine.put("vm3")[0] == 201
    with engine.frontend("vm3"), Caller(engine, "vm3") as caller:
        eventually(lambda: waiting_count(engine) == before + 1 + 2, "their custody")
        assert engine.delete("vm3", "?force")[0] == 204
        assert not caller.is_answered()
    eventually(lambda: waiting_count(engine) == before, "nothing is kept")
    engine.kill_control_plane()
    assert not accepts(engine.socket_path("vm3"))
    assert accepts(engine.socket_path("vm1"))


def test_a_name_that_leads_elsewhere_is_listened_at_anew(engine: ManyDrives) -> None:
    with no_control_plane(engine):
        engine.socket_path("vm1").unlink()
    with engine.frontend("vm1") as disk:
        disk.write(0, BLOCK)
    engine.end()


def test_who_comes_during_an_upgrade_waits(engine: ManyDrives) -> None:
    """The same process becomes the next program: what it listens on stays open."""
    with engine.frontend("vm1") as disk:
        waits = Caller(engine, "vm1")
        with waits:
            program = engine.control.get("/upgrade")["program_id"]
            os.kill(engine.pid, signal.SIGSTOP)
            came = Caller(engine, "vm2")
            os.kill(engine.pid, signal.SIGCONT)
            assert engine.control.ask("POST", "/upgrade", {})[0] < 300
            eventually(lambda: has_other_program(engine, program), "the next program")
            with came:
                assert came.is_answered()
            disk.write(0, BLOCK)
            engine.kill_control_plane()
            assert disk.read(0, 4096) == BLOCK
            disk.close()
            assert waits.is_answered()


def has_other_program(engine: ManyDrives, former: str) -> bool:
    try:
        return bool(engine.control.get("/upgrade")["program_id"] != former)
    except OSError:
        return False
