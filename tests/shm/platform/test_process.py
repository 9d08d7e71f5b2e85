"""Processes as they are watched and signalled, in whichever form is built."""

import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ringblk.shm.platform.process import WATCHES_ANY, signal_process, watch_process

DEADLINE_MS = 30_000


@contextmanager
def child(body: Callable[[], object]) -> Iterator[int]:
    """A child that does this and ends; reaped in the end."""
    pid = os.fork()
    if pid == 0:
        try:
            body()
        finally:
            os._exit(0)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def has_ended(watch_fd: int, timeout_ms: int) -> bool:
    watched = select.poll()
    watched.register(watch_fd, select.POLLIN)
    return bool(watched.poll(timeout_ms))


def test_the_end_of_a_child_is_seen() -> None:
    with child(signal.pause) as pid:
        watch_fd = watch_process(pid)
        assert not has_ended(watch_fd, 0)
        signal_process(watch_fd, pid, signal.SIGTERM)
        assert has_ended(watch_fd, DEADLINE_MS)
        os.close(watch_fd)


def test_a_child_that_had_ended_before_is_seen() -> None:
    read_end, write_end = os.pipe()
    with child(lambda: None) as pid:
        os.close(write_end)
        assert os.read(read_end, 1) == b""  # at its end: the child has none of it any more
        os.close(read_end)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        watch_fd = watch_process(pid)
        assert has_ended(watch_fd, DEADLINE_MS)
        os.close(watch_fd)


def test_each_end_is_told_by_its_own_watch() -> None:
    with child(signal.pause) as first, child(signal.pause) as second, child(signal.pause) as third:
        pids = (first, second, third)
        watches = [watch_process(pid) for pid in pids]
        for index in (1, 0, 2):
            assert not has_ended(watches[index], 0)
            signal_process(watches[index], pids[index], signal.SIGKILL)
            assert has_ended(watches[index], DEADLINE_MS)
        for watch_fd in watches:
            os.close(watch_fd)


def test_who_has_ended_gets_no_signal() -> None:
    with child(lambda: None) as pid:
        watch_fd = watch_process(pid)
        assert has_ended(watch_fd, DEADLINE_MS)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(ProcessLookupError):
        signal_process(watch_fd, pid, signal.SIGKILL)
    os.close(watch_fd)


def test_a_process_that_is_not_there_is_not_watched() -> None:
    with child(lambda: None) as pid:
        pass
    with pytest.raises(OSError):  # noqa: PT011 - no such process, or none of this one's children
        watch_process(pid)


@pytest.mark.skipif(not WATCHES_ANY, reason="this form watches its own children alone")
def test_a_process_that_is_no_child_is_watched() -> None:
    os.close(watch_process(os.getppid()))


def test_watches_leave_no_descriptors() -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    for _ in range(100):
        with child(lambda: None) as pid:
            watch_fd = watch_process(pid)
            assert has_ended(watch_fd, DEADLINE_MS)
            os.close(watch_fd)
    assert count() == before


def test_a_child_watches_its_own_children_after_its_parent_has() -> None:
    """What a parent had watched before the fork is none of the child's."""

    def watch_a_grandchild() -> None:
        with child(lambda: None) as pid:
            watch_fd = watch_process(pid)
            os.write(write_end, b"seen" if has_ended(watch_fd, DEADLINE_MS) else b"lost")

    with child(signal.pause) as other:
        watch_fd = watch_process(other)
        read_end, write_end = os.pipe()
        with child(watch_a_grandchild):
            os.close(write_end)
            assert os.read(read_end, 4) == b"seen"
        assert not has_ended(watch_fd, 0)
        os.close(read_end)
        os.close(watch_fd)
