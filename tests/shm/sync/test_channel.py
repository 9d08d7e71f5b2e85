"""Channels between the processes of an engine."""

import os
import resource
from collections.abc import Iterator

import msgspec
import pytest

from ringblk.shm.sync.channel import MAX_FDS, Channel, ChannelClosed


class Word(msgspec.Struct, tag=True, frozen=True):
    text: str


class Number(msgspec.Struct, tag=True, frozen=True):
    value: int


Said = Word | Number
Pair = tuple[Channel[Said], Channel[Said]]


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = Channel.socketpair()
    ends = Channel[Said](left, Said), Channel[Said](right, Said)
    yield ends
    for end in ends:
        end.close()


def test_messages_arrive_whole_and_in_order(pair: Pair) -> None:
    left, right = pair
    for number in range(20):
        left.send(Number(number))
    left.send(Word("x" * 50000))
    assert [right.receive() for _ in range(20)] == [(Number(number), []) for number in range(20)]
    assert right.receive() == (Word("x" * 50000), [])
    assert right.receive() is None


def test_whether_all_was_read(pair: Pair) -> None:
    left, right = pair
    assert left.is_all_read
    left.send(Number(1))
    left.send(Number(2))
    right.receive()
    assert not left.is_all_read
    right.receive()
    assert left.is_all_read


def test_descriptors_for_who_takes_none_are_closed() -> None:
    left_end, right_end = Channel.socketpair()
    left, right = Channel[Said](left_end, Said), Channel[Said](right_end, Said, takes_fds=False)
    read_end, write_end = os.pipe()
    left.send(Word("take"), [write_end])
    os.close(write_end)
    assert right.receive() == (Word("take"), [])
    assert os.read(read_end, 1) == b""  # nobody has the other end any more
    os.close(read_end)
    left.close()
    right.close()


def test_descriptors_are_copies(pair: Pair) -> None:
    left, right = pair
    read_end, write_end = os.pipe()
    before = len(os.listdir("/proc/self/fd"))
    left.send(Word("take"), [write_end])
    os.write(write_end, b"a")  # still the sender's
    received = right.receive()
    assert received is not None
    (copy,) = received[1]
    assert not os.get_inheritable(copy)
    os.write(copy, b"b")
    assert os.read(read_end, 2) == b"ab"
    os.close(copy)
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(read_end)
    os.close(write_end)


def test_a_message_may_bring_as_many_descriptors_as_there_are_regions(pair: Pair) -> None:
    left, right = pair
    assert MAX_FDS >= 64
    fd = os.eventfd(0)
    left.send(Word("regions"), [fd] * 64)
    received = right.receive()
    assert received is not None
    assert len(received[1]) == 64
    for each in [fd, *received[1]]:
        os.close(each)


def test_the_sender_never_waits(pair: Pair) -> None:
    left, right = pair
    fd = os.eventfd(0)
    count = 0
    while not left.has_unsent:
        left.send(Word("y" * 4000), [fd])
        count += 1
    left.send(Number(7))
    got = 0
    while (received := right.receive()) is not None:
        for each in received[1]:
            os.close(each)
        got += 1
    assert got == count - 1
    left.flush()
    assert not left.has_unsent
    last = right.receive()
    assert last is not None
    os.close(last[1][0])
    assert right.receive() == (Number(7), [])
    os.close(fd)


def test_what_was_not_sent_leaves_no_descriptor(pair: Pair) -> None:
    left, _ = pair
    fd = os.eventfd(0)
    while not left.has_unsent:
        left.send(Word("y" * 4000))
    before = len(os.listdir("/proc/self/fd"))
    left.send(Word("never"), [fd] * 5)
    assert len(os.listdir("/proc/self/fd")) == before + 5
    left.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1
    os.close(fd)


def test_the_end_of_the_other_side(pair: Pair) -> None:
    left, right = pair
    left.send(Number(1))
    left.close()
    assert right.receive() == (Number(1), [])
    with pytest.raises(ChannelClosed):
        right.receive()
    with pytest.raises(ChannelClosed):
        right.send(Number(2))


def test_too_many_open_files_is_an_error_without_a_leak(pair: Pair) -> None:
    left, _ = pair
    fd = os.eventfd(0)
    while not left.has_unsent:
        left.send(Word("x" * 50000))  # what comes now has to wait, with copies
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = os.listdir("/proc/self/fd")
    limit = max(map(int, before)) + 3
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            left.send(Number(1), [fd] * limit)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert os.listdir("/proc/self/fd") == before
    os.close(fd)
