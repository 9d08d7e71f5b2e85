"""Groups of engines: joining, leaving and being killed, in any order."""

import fcntl
import os
import signal
import struct
from collections.abc import Callable, Iterator

import posix_ipc
import pytest

from ringblk.shm.rates import group as rate_group_module
from ringblk.shm.rates.bucket_settings import BucketSettings, BucketSettingsError
from ringblk.shm.rates.group import HEADER_BYTES, RateGroup, RateGroupBusy, RateGroupError
from ringblk.shm.rates.limit import READ
from ringblk.shm.rates.limit_settings import RateLimitSettings
from ringblk.shm.segments.segment import remove_orphan

SETTINGS = RateLimitSettings(ops_total=BucketSettings(tokens=1000, burst=100))


def exists(name: str) -> bool:
    try:
        posix_ipc.SharedMemory(f"/ringblk-rate-{name}").close_fd()
    except posix_ipc.ExistentialError:
        return False
    return True


@pytest.fixture
def name() -> Iterator[str]:
    name = f"test-{os.getpid()}"
    yield name
    if exists(name):
        posix_ipc.unlink_shared_memory(f"/ringblk-rate-{name}")


def draw(group: RateGroup, count: int) -> int:
    limit = group.limit
    return sum(limit.acquire(READ, 0, 0) == 0 for _ in range(count))


def fork_member(name: str, body: Callable[[RateGroup], object]) -> tuple[int, int]:
    """A process that joins, runs `body`, and says so by closing a pipe's end; it then sleeps until killed."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read_fd)
            body(RateGroup(name, SETTINGS, 0))
            os.write(write_fd, b"+")
            signal.pause()
        finally:
            os._exit(1)
    os.close(write_fd)
    assert os.read(read_fd, 1) == b"+", "the member failed"
    return pid, read_fd


def kill(member: tuple[int, int]) -> None:
    pid, read_fd = member
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(read_fd)


def test_the_first_creates_the_last_removes(name: str) -> None:
    first = RateGroup(name, SETTINGS, 0)
    second = RateGroup(name, RateLimitSettings(), 0)
    assert (first.is_creator, second.is_creator) == (True, False)
    assert draw(first, 60) + draw(second, 60) == 100
    first.leave()
    first.leave()
    assert exists(name)
    assert draw(second, 1) == 0
    second.leave()
    assert not exists(name)


def test_who_comes_after_the_last_begins_anew(name: str) -> None:
    for _ in range(2):
        group = RateGroup(name, SETTINGS, 0)
        assert group.is_creator
        assert draw(group, 200) == 100
        group.leave()


def test_who_has_left_is_no_member_while_its_buckets_are_held(name: str) -> None:
    """An engine's objects may live longer than it is a member; the next engine begins the group anew."""
    first = RateGroup(name, SETTINGS, 0)
    buckets = first.limit
    first.leave(goes_on=True)
    second = RateGroup(name, SETTINGS, 0)
    assert second.is_creator
    del buckets
    second.leave()


def test_any_member_may_change_the_limit(name: str) -> None:
    first, second = RateGroup(name, SETTINGS, 0), RateGroup(name, SETTINGS, 0)
    second.configure(RateLimitSettings(ops_read=BucketSettings(tokens=7, burst=3)), 0)
    assert first.limit.limited == ["ops_read"]
    assert draw(first, 5) == 3
    first.leave()
    second.leave()


def test_a_member_may_change_a_part_of_the_limit(name: str) -> None:
    first, second = RateGroup(name, SETTINGS, 0), RateGroup(name, SETTINGS, 0)
    before = first.limit.limited
    second.configure_some({"ops_write": BucketSettings(tokens=7, burst=3)}, 0)
    assert set(first.limit.limited) == {*before, "ops_write"}
    second.configure_some({"ops_write": None}, 0)
    assert first.limit.limited == before
    first.leave()
    second.leave()


def test_a_killed_member_leaves_the_group_to_the_others(name: str) -> None:
    creator = fork_member(name, lambda group: draw(group, 30))
    group = RateGroup(name, SETTINGS, 0)
    assert not group.is_creator
    kill(creator)
    assert draw(group, 100) == 70
    later = fork_member(name, lambda group: None)
    group.leave()
    assert exists(name)
    kill(later)


def test_the_last_one_killed_leaves_a_name_that_begins_anew(name: str) -> None:
    kill(fork_member(name, lambda group: draw(group, 100)))
    assert exists(name)
    group = RateGroup(name, SETTINGS, 0)
    assert group.is_creator
    assert draw(group, 200) == 100
    group.leave()
    assert not exists(name)


def test_clearing_away_orphans_spares_a_group_in_use(name: str) -> None:
    member = fork_member(name, lambda group: None)
    assert not remove_orphan(f"ringblk-rate-{name}")
    kill(member)
    assert remove_orphan(f"ringblk-rate-{name}")


def test_a_creator_killed_before_the_end_leaves_no_trap(name: str) -> None:
    for size_bytes in (0, 100, 4096):
        segment = posix_ipc.SharedMemory(f"/ringblk-rate-{name}", posix_ipc.O_CREAT)
        os.ftruncate(segment.fd, size_bytes)
        segment.close_fd()
        group = RateGroup(name, SETTINGS, 0)
        assert draw(group, 200) == 100
        group.leave()


def test_processes_join_and_leave_at_random_and_share_one_limit(name: str) -> None:
    rounds, processes = 40, 4
    pids = []
    for _ in range(processes):
        pid = os.fork()
        if pid == 0:
            try:
                for _ in range(rounds):
                    group = RateGroup(name, SETTINGS, 0)
                    assert group.limit.limited == ["ops_total"]
                    # Alone or not, the name means the segment that this member has.
                    other = RateGroup(name, RateLimitSettings(), 0)
                    assert not other.is_creator
                    assert draw(group, 101) + draw(other, 101) <= 100
                    other.leave()
                    group.leave()
                os._exit(0)
            finally:
                os._exit(1)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * processes
    assert not exists(name)


def test_another_version_is_refused_while_it_is_in_use(name: str) -> None:
    group = RateGroup(name, SETTINGS, 0)
    group.buffer[8] += 1  # the version
    with pytest.raises(RateGroupError, match="another version"):
        RateGroup(name, SETTINGS, 0)
    assert group.buffer[HEADER_BYTES] != 0  # untouched
    assert exists(name)
    group.leave()
    assert not exists(name)


def test_wrong_settings_leave_nothing_behind(name: str) -> None:
    with pytest.raises(BucketSettingsError):
        RateGroup(name, RateLimitSettings(ops_read=BucketSettings(tokens=-1)), 0)
    assert not exists(name)


@pytest.mark.parametrize("bad_name", ["", "a/b", "../x", ".hidden", "a" * 101, "ä"])
def test_names_that_are_none(bad_name: str) -> None:
    with pytest.raises(RateGroupError, match="a name is"):
        RateGroup(bad_name, SETTINGS, 0)


def test_a_group_that_another_process_keeps_locked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_group_module, "LOCK_WAIT_S", 0.0)
    group = RateGroup(name, SETTINGS, 0)
    segment = posix_ipc.SharedMemory(f"/ringblk-rate-{name}")
    fcntl.fcntl(segment.fd, fcntl.F_OFD_SETLKW, struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    with pytest.raises(RateGroupBusy):
        RateGroup(name, SETTINGS, 0)
    with pytest.raises(RateGroupBusy):
        group.configure(RateLimitSettings(), 0)
    with pytest.raises(RateGroupBusy):
        group.configure_some({"ops_total": None}, 0)
    assert group.limit.limited == ["ops_total"]
    assert draw(group, 200) == 100
    group.leave()  # all the same
    segment.close_fd()
    last = RateGroup(name, RateLimitSettings(), 0)
    assert last.is_creator
    last.leave()
