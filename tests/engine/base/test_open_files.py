"""Descriptors set apart for drives: what all of them can need together is never more than there may be."""

import itertools
import re
import resource
from collections.abc import Iterator
from functools import partial

import pytest

from ringblk.engine.base.open_files import LEAST_MEM_SLOTS, MAX_MEM_SLOTS, OpenFiles
from ringblk.engine.base.program_error import ProgramError

LEAST, MOST = 136, 1639
"""What one drive with four workers and a queue can need: with 8 memory slots, and with 509."""


class Limits:
    """What getrlimit(2) says and setrlimit(2) sets, in place of this process's own."""

    def __init__(self) -> None:
        self.soft, self.hard = 1024, 524288

    def get(self, _: int) -> tuple[int, int]:
        return self.soft, self.hard

    def set(self, _: int, limits: tuple[int, int]) -> None:
        assert limits[1] == self.hard
        assert limits[0] <= self.hard
        self.soft = limits[0]


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Limits]:
    limits = Limits()
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)
    yield limits
    assert resource.RLIM_INFINITY not in (limits.soft, limits.hard)


def test_the_only_drive_may_have_them_all(limits: Limits) -> None:
    files = OpenFiles(is_sole=True)
    files.reserve("", 4, 1)
    assert limits.soft == MOST
    assert files.mem_slot_count("") == MAX_MEM_SLOTS


def test_few_are_enough_for_few_memory_slots(limits: Limits) -> None:
    limits.soft = limits.hard = LEAST
    files = OpenFiles(is_sole=True)
    files.reserve("", 4, 1)
    assert files.mem_slot_count("") == LEAST_MEM_SLOTS
    with pytest.raises(ProgramError, match=r"only \d+ files may be open, 5 workers and 1 queues can need"):
        files.reserve("", 5, 1)


def test_hundreds_of_drives_have_room(limits: Limits) -> None:
    files = OpenFiles(is_sole=False)
    for number in range(700):
        files.reserve(f"vm{number}", 4, 1, 1)
        assert files.admit(f"vm{number}") == ""
    slots = [files.mem_slot_count(f"vm{number}") for number in range(700)]
    assert slots[0] == MAX_MEM_SLOTS
    assert slots == sorted(slots, reverse=True)
    assert min(slots) >= LEAST_MEM_SLOTS
    assert limits.soft <= limits.hard


def test_a_thousand_without_a_front_end_need_few(limits: Limits, caplog: pytest.LogCaptureFixture) -> None:
    limits.hard = 20_000
    files = OpenFiles(is_sole=False)
    for number in range(1000):
        files.reserve(f"vm{number}", 4, 1, 1)
    assert files.admit("vm0") == ""
    assert files.mem_slot_count("vm0") > LEAST_MEM_SLOTS
    (line,) = caplog.messages
    assert re.fullmatch(
        r"20000 files may be open, \d+ drives can need \d+ once each of them has a front end: .*", line
    )


def test_a_front_end_that_finds_too_few_is_told_so_until_another_goes(limits: Limits) -> None:
    limits.hard = 1000
    files = OpenFiles(is_sole=False)
    for number in range(20):
        files.reserve(f"vm{number}", 4, 1, 1)
    admitted = list(
        itertools.takewhile(lambda drive: not files.admit(drive), (f"vm{each}" for each in range(20)))
    )
    assert 2 < len(admitted) < 20
    refused = f"vm{len(admitted)}"
    assert files.admit(refused).startswith(
        f"too few files may be open for one more beside {len(admitted)} others:"
    )
    assert files.mem_slot_count(admitted[-1]) == LEAST_MEM_SLOTS
    workers = [4, 4]
    for drive in admitted[:2]:  # of the first the regions, too, make room
        files.leave(drive, lambda: workers[0])
    files.leave(admitted[-1], lambda: workers[0])
    assert files.admit(refused) == ""
    files.leave(refused, lambda: 0)
    assert files.admit(admitted[-1]) == ""


def test_workers_that_stay_count_as_long_as_they_stay(limits: Limits) -> None:
    limits.hard = 800
    files = OpenFiles(is_sole=False)
    for drive in ("vm1", "vm2"):
        files.reserve(drive, 60, 1, 1)
    assert files.admit("vm1") == ""
    workers = 60
    files.leave("vm1", lambda: workers)
    assert "too few files" in files.admit("vm2")
    workers = 0
    assert files.admit("vm2") == ""


def test_a_front_end_of_before_is_never_turned_away(limits: Limits) -> None:
    limits.hard = 300
    files = OpenFiles(is_sole=False)
    for drive in ("vm1", "vm2"):
        files.reserve(drive, 4, 1, 1)
    assert files.admit("vm1", 30) == ""
    assert files.mem_slot_count("vm1") == 30
    assert "too few files" in files.admit("vm2")
    assert files.admit("vm2", 8) == ""


def test_one_too_many_is_refused_with_the_figure_and_fits_where_another_goes(limits: Limits) -> None:
    limits.hard = 2000
    files = OpenFiles(is_sole=False)
    count = 0
    add = partial(files.reserve, worker_count=4, num_queues=1)
    refusal = ""
    while not refusal:
        try:
            add(f"vm{count}")
            count += 1
        except ProgramError as error:
            refusal = str(error)
    assert count > 100
    found = re.fullmatch(
        r"only 2000 files may be open, (\d+) drives with (\d+) workers and \d+ queues need at least (\d+):"
        r" .*",
        refusal,
    )
    assert found is not None
    assert [int(found[1]), int(found[2])] == [count + 1, 4 * (count + 1)]
    assert int(found[3]) > 2000
    files.release("vm0")
    add("another")
    with pytest.raises(ProgramError):
        add("one more")
    assert files.admit("vm1") == "", "there is room for the front end of one"


def test_more_workers_count_as_well(limits: Limits) -> None:
    limits.hard = 400
    files = OpenFiles(is_sole=False)
    files.reserve("vm1", 4, 1)
    with pytest.raises(ProgramError, match="1 drives with 64 workers"):
        files.reserve("vm1", 64, 1)
    files.reserve("vm1", 8, 1)
