"""Segments: created, attached, checked, and gone whatever way their owner ends."""

import contextlib
import fcntl
import os
import signal
import struct
import subprocess
import sys
import uuid
from collections.abc import Iterator

import posix_ipc
import pytest

from ringblk.shm.segments import segment as segment_module
from ringblk.shm.segments.segment import HEADER, HEADER_BYTES, Segment, SegmentError, remove_orphan
from ringblk.shm.segments.shared_folder import shared_names
from tests.rigs.child_process import forked_holder

SIZE = 8192


@pytest.fixture
def name() -> Iterator[str]:
    unique = f"ringblk-test-{uuid.uuid4().hex}"
    yield unique
    for left in shared_names(unique):
        posix_ipc.unlink_shared_memory("/" + left)


@contextlib.contextmanager
def owner_process(name: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns a segment until it is killed."""
    program = (
        "import sys\nfrom ringblk.shm.segments.segment import Segment\n"
        f"segment = Segment.create({name!r}, 'test', 1, {SIZE})\nprint('up', flush=True)\nsys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "up\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_what_is_written_is_seen_by_name_and_by_fd(name: str) -> None:
    with Segment.create(name, "test", 1, SIZE) as created:
        assert bytes(created.memory[HEADER_BYTES:]) == bytes(SIZE - HEADER_BYTES)
        created.memory[100:105] = b"hello"
        with Segment.attach(name, "test", 1) as by_name:
            assert by_name.memory[100:105] == b"hello"
            assert not by_name.is_creator
        with Segment.attach_fd(os.dup(created.fd), "test", 1) as by_fd:
            by_fd.memory[100:105] = b"there"
        assert created.memory[100:105] == b"there"
        assert shared_names(name) == [name]
    assert shared_names(name) == []


def test_only_the_creator_removes_the_name(name: str) -> None:
    with Segment.create(name, "test", 1, SIZE):
        Segment.attach(name, "test", 1).close()
        assert shared_names(name) == [name]


def test_attach_checks_the_header(name: str) -> None:
    with Segment.create(name, "test", 3, SIZE) as created:
        with pytest.raises(SegmentError, match="layout version 3, not 4"):
            Segment.attach(name, "test", 4)
        with pytest.raises(SegmentError, match="not a ringblk stat segment"):
            Segment.attach(name, "stat", 3)
        os.ftruncate(created.fd, SIZE // 2)
        with pytest.raises(SegmentError, match="shorter than its header says"):
            Segment.attach(name, "test", 3)
        created.memory[0:8] = b"SOMETHIN"
        with pytest.raises(SegmentError, match="not a ringblk test segment"):
            Segment.attach(name, "test", 3)
        os.ftruncate(created.fd, 0)
        with pytest.raises(SegmentError, match="is empty"):
            Segment.attach(name, "test", 3)
    with pytest.raises(SegmentError, match="no shared memory segment"):
        Segment.attach(name, "test", 3)


def test_the_header_is_the_documented_one(name: str) -> None:
    with Segment.create(name, "test", 7, SIZE) as created:
        assert struct.unpack_from("<8sI4sQ", created.memory, 0) == (b"RINGBLK\0", 7, b"test", SIZE)
        assert HEADER.size <= HEADER_BYTES


def test_a_refused_attach_leaves_no_fd(name: str) -> None:
    with Segment.create(name, "test", 1, SIZE):
        before = os.listdir("/proc/self/fd")
        for _ in range(3):
            with pytest.raises(SegmentError):
                Segment.attach(name, "test", 2)
        assert os.listdir("/proc/self/fd") == before


def test_a_living_owner_keeps_its_segment(name: str) -> None:
    with owner_process(name):
        assert not remove_orphan(name)
        with pytest.raises(SegmentError, match=name):
            Segment.create(name, "test", 1, SIZE)
        Segment.attach(name, "test", 1).close()


def test_a_killed_owner_leaves_an_orphan_that_is_removed(name: str) -> None:
    with owner_process(name) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert shared_names(name) == [name]
        assert remove_orphan(name)
        assert shared_names(name) == []
        assert not remove_orphan(name)


def test_create_takes_the_place_of_an_orphan(name: str) -> None:
    with owner_process(name) as process:
        process.kill()
        process.wait()
        with Segment.create(name, "test", 2, SIZE):
            Segment.attach(name, "test", 2).close()


def test_a_forked_child_keeps_the_segment_alive(name: str) -> None:
    segment = Segment.create(name, "test", 1, SIZE)
    with forked_holder():
        segment.memory.close()
        os.close(segment.fd)  # as if this process had died: the child holds the same open file
        assert not remove_orphan(name)
    assert remove_orphan(name)


def test_an_orphan_removed_by_another_does_not_take_its_successor_along(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening an orphan and locking it, somebody else removes it and a new engine takes the name."""
    orphan = posix_ipc.SharedMemory("/" + name, posix_ipc.O_CREX, mode=0o600)
    os.close(orphan.fd)
    real_flock = fcntl.flock
    successors: list[Segment] = []

    def late_flock(fd: int, operation: int) -> None:
        if operation & fcntl.LOCK_NB and not successors:
            posix_ipc.unlink_shared_memory("/" + name)
            monkeypatch.setattr(segment_module, "remove_orphan", lambda name: False)
            successors.append(Segment.create(name, "test", 1, SIZE))
        real_flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late_flock)
    assert not remove_orphan(name)
    assert shared_names(name) == [name]
    successors[0].close()


def test_taken_for_an_orphan_between_creation_and_lock(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A starting engine whose segment was just removed makes another."""
    real_flock = fcntl.flock
    removed: list[str] = []

    def late_flock(fd: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX and not removed:
            removed.extend([name] if remove_orphan(name) else [])
        real_flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late_flock)
    with Segment.create(name, "test", 1, SIZE):
        assert removed == [name]
        Segment.attach(name, "test", 1).close()


def test_no_room_is_an_error_and_leaves_nothing(name: str) -> None:
    room = os.statvfs("/dev/shm")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(SegmentError, match=f"cannot create shared memory segment {name}.*(space|large)"):
        Segment.create(name, "test", 1, room.f_frsize * (room.f_blocks + 1024))
    assert shared_names(name) == []
    assert os.listdir("/proc/self/fd") == before
