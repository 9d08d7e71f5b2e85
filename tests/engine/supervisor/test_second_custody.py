"""What the zygote has of a session beside the dispatcher: told in order, whole, and no more than is named.

Fault model: the zygote does not read for a while, or another comes in its place; this process ends between
any two messages to it.
"""

import os
from collections.abc import Iterator, Sequence

import pytest

from ringblk.engine.supervisor.kept_parts import left_parts
from ringblk.engine.supervisor.second_custody import SecondCustody
from ringblk.engine.zygote.kept_parts import part_place
from ringblk.engine.zygote.messages import ForgetSocket, KeepSocket


class FakeZygote:
    """Keeps what it is told, under its own descriptors."""

    def __init__(self) -> None:
        self.custodies: set[SecondCustody] = set()
        self.is_behind = False
        self.kept: dict[bytes, tuple[KeepSocket, int]] = {}

    def tell(self, message: KeepSocket | ForgetSocket, fds: Sequence[int] = ()) -> None:
        if isinstance(message, ForgetSocket):
            if message.identity in self.kept:
                os.close(self.kept.pop(message.identity)[1])
        elif message.identity not in self.kept:
            self.kept[message.identity] = (message, os.dup(fds[0]))

    def handles(self) -> set[tuple[str, int]]:
        return {place for kept, _ in self.kept.values() if (place := part_place(kept)) is not None}

    def die(self) -> None:
        """Another has nothing."""
        for _, fd in self.kept.values():
            os.close(fd)
        self.kept.clear()

    def left(self) -> dict[str, bytes] | None:
        """The states that a next supervisor finds, with their descriptors."""
        entries = {
            place: os.dup(fd) for kept, fd in self.kept.values() if (place := part_place(kept)) is not None
        }
        parts = left_parts(entries)
        if parts is None:
            return None
        parts.let_go()
        return parts.states


@pytest.fixture
def zygote() -> Iterator[FakeZygote]:
    zygote = FakeZygote()
    yield zygote
    zygote.die()


@pytest.fixture
def custody(zygote: FakeZygote) -> Iterator[SecondCustody]:
    custody = SecondCustody(zygote, 0)
    yield custody
    custody.end()


def test_a_state_is_replaced_and_what_it_does_not_name_goes(
    zygote: FakeZygote, custody: SecondCustody
) -> None:
    assert zygote.left() is None
    custody.keep("session", {1: 0, 2: 0})
    custody.keep_state("session", b"one", [1, 2])
    assert zygote.left() == {"session": b"one"}
    custody.keep("processes", {3: 0})
    custody.keep_state("processes", b"other", [3])
    custody.keep("session", {4: 0})
    custody.keep_state("session", b"two" * 1000, [1, 4])
    assert zygote.left() == {"session": b"two" * 1000, "processes": b"other"}
    assert zygote.handles() == {
        ("session", 0),
        ("session", 1),
        ("session", 4),
        ("processes", 0),
        ("processes", 3),
    }
    custody.end()
    assert (zygote.kept, zygote.custodies) == ({}, set())


def test_a_zygote_that_does_not_read_is_told_when_it_does(zygote: FakeZygote, custody: SecondCustody) -> None:
    custody.keep("session", {1: 0})
    custody.keep_state("session", b"one", [1])
    zygote.is_behind = True
    custody.keep("session", {2: 0})
    custody.keep_state("session", b"two", [1, 2])
    assert zygote.left() is None, "it names what is not there"
    zygote.is_behind = False
    custody.keep_state("session", b"three", [1, 2])
    assert zygote.left() == {"session": b"three"}


def test_the_next_zygote_is_told_all(zygote: FakeZygote, custody: SecondCustody) -> None:
    custody.keep("session", {1: 0})
    custody.keep_state("session", b"one", [1])
    zygote.die()
    for each in zygote.custodies:
        each.tell_again()
    assert zygote.left() == {"session": b"one"}
