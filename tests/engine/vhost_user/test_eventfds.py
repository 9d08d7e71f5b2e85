"""Kick, call and error fds that are not what they should be: nothing spins or blocks, nobody else waits."""

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringblk import BackendRefused
from ringblk.engine.vhost_user.codes import FrontendRequest
from ringblk.engine.vhost_user.messages import VringFd, encode_vring_fd
from tests.rigs.engine_rig import MEMORY, Engine, RawFrontend, eventually, raw_frontend
from tests.rigs.inline_device import IN, OK

FULL = 2**64 - 2  # what the counter of an eventfd holds at most (eventfd(2))
NO_FD = encode_vring_fd(VringFd(0, has_fd=False))
OPTIONS = (*MEMORY, "--num-queues=2")
SYNC = (*OPTIONS, "--io-engine=sync")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(*SYNC, "--poll-us=0") as engine:
        yield engine


@contextlib.contextmanager
def every_other_kind(folder: Path) -> Iterator[dict[str, int]]:
    """An fd of each kind that is no eventfd."""
    (folder / "file").touch()
    read_end, write_end = os.pipe()
    ours, theirs = socket.socketpair()
    fds = {
        "file": os.open(folder / "file", os.O_RDWR),
        "file called as an eventfd is": os.memfd_create("anon_inode:[eventfd]"),
        "directory": os.open(folder, os.O_RDONLY),
        "read end": read_end,
        "write end": write_end,
        "socket": ours.detach(),
        "device": os.open("/dev/zero", os.O_RDWR),
        "path only": os.open("/dev/zero", os.O_PATH),
    }
    yield fds
    for fd in fds.values():
        os.close(fd)
    theirs.close()


def test_only_an_eventfd_is_taken(engine: Engine, tmp_path: Path) -> None:
    """A regular file is always readable, a pipe blocks who writes it: refused, and nothing has changed."""
    with every_other_kind(tmp_path) as fds, raw_frontend(engine) as frontend:
        engine_fds = engine.open_fds()
        for fd in fds.values():
            with pytest.raises(BackendRefused):
                frontend.connection.set_vring_kick(0, fd)
            with pytest.raises(BackendRefused):
                frontend.connection.set_vring_call(0, fd)
            with pytest.raises(BackendRefused):
                frontend.connection._set_vring_fd(FrontendRequest.SET_VRING_ERR, 0, fd)
        assert frontend.queues[0].request(IN, read_bytes=512)[0] == OK
        eventually(
            lambda: engine.open_fds() == engine_fds, "the descriptors' end"
        )  # an answer comes before it
        assert "the kick fd of queue 0 is no eventfd, but pipe" in engine.log()


@pytest.mark.parametrize("log_format", ["human", "json"])
def test_a_file_whose_name_is_no_text(tmp_path: Path, log_format: str) -> None:
    """The log line says which, and is one line: it cannot fake another or colour the terminal."""
    path = os.fsencode(tmp_path) + b"/\xff\x1b[31mred\rringblk[1] INFO: fine\nb"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    with Engine(*SYNC, f"--log-format={log_format}") as engine:
        with raw_frontend(engine) as frontend, pytest.raises(BackendRefused):
            frontend.connection.set_vring_kick(0, fd)
        os.close(fd)
        eventually(lambda: "is no eventfd, but" in engine.log(), "the log line")
        lines = [line for line in engine.log().split("\n") if "is no eventfd, but" in line]
        assert [line.isprintable() for line in lines] == [True]
        text = json.loads(lines[0])["message"] if log_format == "json" else lines[0]
        assert r"/\udcff\x1b[31mred\rringblk[1] INFO" in text
        assert "Logging error" not in engine.log()


def is_asleep(pid: int) -> bool:
    """Whether the process waits for something, which one that spins never does."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


@pytest.mark.parametrize("flags", [0, os.EFD_SEMAPHORE])
def test_a_kick_that_stays_readable_wakes_nobody_twice(engine: Engine, flags: int) -> None:
    (dispatcher,) = engine.children()
    with RawFrontend(engine, num_queues=2) as frontend:
        os.close(frontend.queues[0].kick_fd)
        frontend.queues[0].kick_fd = os.eventfd(0, os.EFD_NONBLOCK | flags)
        os.eventfd_write(frontend.queues[0].kick_fd, FULL - 1000)
        frontend.set_up()
        for _ in range(20):
            for queue in frontend.queues:
                assert queue.request(IN, read_bytes=512)[0] == OK
        eventually(lambda: is_asleep(dispatcher), "the dispatcher's rest")


def test_a_queue_without_a_kick_is_looked_at_and_does_not_take_a_core(engine: Engine) -> None:
    (dispatcher,) = engine.children()
    with raw_frontend(engine, num_queues=2) as frontend:
        polled, kicked = frontend.queues
        frontend.connection.command(FrontendRequest.SET_VRING_KICK, NO_FD)
        for _ in range(10):
            polled.driver.forget_places()
            gpa = polled.offer(IN, read_bytes=512)
            polled.wait_used(1)
            assert polled.driver.read(gpa + 512, 1) == bytes([OK])
            assert kicked.request(IN, read_bytes=512)[0] == OK
        eventually(lambda: is_asleep(dispatcher), "a moment's rest between two looks")


@pytest.mark.parametrize("is_blocking", [False, True])
def test_a_call_whose_counter_is_full_is_left_out(is_blocking: bool) -> None:
    """Blocking or not, and without end; the queue and its neighbour go on, and one line says so."""
    with Engine(*SYNC) as engine, RawFrontend(engine, num_queues=2) as frontend:
        bad, good = frontend.queues
        os.set_blocking(bad.call_fd, is_blocking)
        os.eventfd_write(bad.call_fd, FULL)
        frontend.set_up()
        for number in range(1, 41):
            used_idx = bad.driver.used_idx
            bad.driver.forget_places()
            bad.offer(IN, read_bytes=512)
            eventually(lambda used_idx=used_idx: bad.driver.used_idx == used_idx + 1, "a request done")  # type: ignore[misc]
            assert good.request(IN, read_bytes=512)[0] == OK, number
        assert engine.log().count("queue 0: the counter of its call eventfd is full") == 1
        assert os.eventfd_read(bad.call_fd) == FULL
        bad.driver.used()
        assert bad.request(IN, read_bytes=512)[0] == OK  # it is heard again


@pytest.mark.parametrize("way_out", ["question", "hang up", "SIGTERM"])
def test_a_call_that_blocks_against_its_word_is_ended_by_a_nudge(way_out: str) -> None:
    """The front end makes its eventfd block after it was looked at: whoever next wants something gets it."""
    with Engine(*SYNC) as engine:
        with raw_frontend(engine, num_queues=2) as frontend:
            (dispatcher,) = engine.children()
            bad, _ = frontend.queues
            os.eventfd_read(bad.call_fd)  # the call at its start
            os.eventfd_write(bad.call_fd, FULL)
            os.set_blocking(bad.call_fd, True)
            bad.offer(IN, read_bytes=512)
            eventually(lambda: is_in_write(dispatcher), "the dispatcher stuck in its call")
            if way_out == "SIGTERM":
                assert engine.end() == 0
                return
            if way_out == "question":
                assert frontend.connection.get_vring_base(1) == 0
                eventually(lambda: bad.driver.used_idx == 1, "the request done")
        with raw_frontend(engine, num_queues=2) as frontend:
            assert frontend.queues[0].request(IN, read_bytes=512)[0] == OK
        assert engine.children() == {dispatcher}


def is_in_write(pid: int) -> bool:
    """Whether the process waits inside eventfd_write."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[0] == "1" and is_asleep(pid)


@pytest.mark.parametrize("is_blocking", [False, True])
def test_an_error_fd_whose_counter_is_full(engine: Engine, is_blocking: bool) -> None:
    with RawFrontend(engine, num_queues=2) as frontend:
        bad, good = frontend.queues
        os.set_blocking(bad.err_fd, is_blocking)
        os.eventfd_write(bad.err_fd, FULL)
        frontend.set_up()
        log_length = len(engine.log())
        bad.driver.avail_idx += 100
        bad.kick()
        eventually(lambda: "queue 0 is broken" in engine.log()[log_length:], "the log line")
        assert good.request(IN, read_bytes=512)[0] == OK
        assert frontend.connection.get_vring_base(1) == 1
