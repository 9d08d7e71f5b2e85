"""A dispatcher's line to its control plane, which dies here: what is kept, handed over, and told again.

Fault model: the control plane closes its end of the channel at any moment, as SIGKILL does; another comes, or
somebody who is none.
"""

import contextlib
import os
import select
import socket
from collections.abc import Iterator

import pytest

from ringblk.engine.dispatcher.control_line import AdoptionPlace, ControlLine
from ringblk.engine.dispatcher.messages import (
    SESSION_PART,
    SESSION_REQUESTS,
    Answer,
    ChangeRegions,
    EnableQueue,
    FromDispatcher,
    FromOrphan,
    HandOver,
    KeepFds,
    KeepState,
    MemoryLost,
    Pause,
    QueueBroken,
    RegionsUnused,
    Resume,
    StopQueue,
    ToDispatcher,
    WishAnswered,
    WorkersWanted,
)
from ringblk.engine.supervisor.kept_parts import AdoptedParts, AdoptionFailed, take_parts
from ringblk.shm.platform.descriptors import open_descriptors
from ringblk.shm.sync.channel import Channel, ChannelClosed, encode_message
from tests.rigs.engine_rig import NOBODY

FIRST = SESSION_REQUESTS


class Watch:
    """Nobody waits here."""

    def watch_channel(self, fd: int) -> None:
        """It may be closed at its other end."""

    def watch_control(self, fd: int) -> None:
        """Somebody may come."""


class Line:
    """A control line, and the ends that control planes have."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listening.bind(name)
        self.listening.listen(8)
        self.listening.setblocking(False)
        ours, its = Channel.socketpair()
        self.ours: Channel[FromDispatcher] = Channel(ours, FromDispatcher)
        place = AdoptionPlace(self.listening.detach(), frozenset({os.geteuid()}))
        self.line = ControlLine(Channel(its, ToDispatcher), place, Watch())
        self._adopted: list[AdoptedParts] = []

    def tell(self, *messages: ToDispatcher) -> list[ToDispatcher]:
        """What of these is for the dispatcher to carry out."""
        for message in messages:
            self.ours.send(message)
        return self.received()

    def received(self) -> list[ToDispatcher]:
        return [message for message, _ in iter(self.line.receive, None)]

    def keep(self, data: bytes, *fds: int) -> None:
        handles = list(range(1, 1 + len(fds)))
        self.ours.send(KeepFds(SESSION_PART, handles), fds)
        assert self.tell(KeepState(SESSION_PART, data, handles)) == []

    def heard(self) -> list[FromDispatcher]:
        return [message for message, _ in iter(self.ours.receive, None)]

    def die(self) -> None:
        """Be a control plane no more."""
        self.ours.close()

    def come(self, message: ToDispatcher = HandOver()) -> AdoptedParts:  # noqa: B008
        """Be another."""
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        end.connect(self.name)
        end.send(encode_message(message))
        assert self.received() == []
        adopted = take_parts(end)
        self._adopted.append(adopted)
        self.ours = adopted.channel
        return adopted

    def close(self) -> None:
        """Let go of all that is open, as the end of both processes does."""
        for adopted in self._adopted:
            adopted.close()
        with contextlib.suppress(ChannelClosed):
            self.keep(b"")
        self.line.close()
        self.ours.close()


@pytest.fixture
def line() -> Iterator[Line]:
    before = open_descriptors()
    made = Line(f"\0ringblk-test-{os.getpid()}-{os.urandom(4).hex()}")
    yield made
    made.close()
    assert open_descriptors() <= before  # what an earlier test has left may have gone meanwhile


def content(fd: int) -> bytes:
    return os.pread(fd, 100, 0)


@contextlib.contextmanager
def files_with(*contents: bytes) -> Iterator[list[int]]:
    """Descriptors of files that hold these."""
    fds = [os.memfd_create("kept") for _ in contents]
    for fd, data in zip(fds, contents, strict=True):
        os.write(fd, data)
    yield fds
    for fd in fds:
        os.close(fd)


def test_what_is_kept_is_handed_over(line: Line) -> None:
    with files_with(b"a", b"b") as fds:
        line.keep(b"one", *fds)
    line.die()
    assert line.received() == []
    adopted = line.come()
    assert adopted.states == {SESSION_PART: b"one"}
    assert {handle: content(fd) for handle, fd in adopted.fds.items()} == {1: b"a", 2: b"b"}
    line.keep(b"two")  # to the next
    line.die()
    assert line.come().states == {SESSION_PART: b"two"}


def test_descriptors_that_are_not_named_any_more_are_let_go(line: Line) -> None:
    reading, writing = os.pipe()
    line.keep(b"with it", writing)
    os.close(writing)
    os.set_blocking(reading, False)
    with pytest.raises(BlockingIOError):
        os.read(reading, 1)
    line.keep(b"without it")
    assert os.read(reading, 1) == b""  # nobody has the other end
    os.close(reading)


def test_many_descriptors_are_handed_over(line: Line) -> None:
    with files_with(*(b"%d" % number for number in range(300))) as files:
        for start in (0, 150):
            handles = list(range(start, start + 150))
            line.ours.send(KeepFds(SESSION_PART, handles), files[start : start + 150])
            assert line.received() == []
    assert line.tell(KeepState(SESSION_PART, b"many", list(range(300)))) == []
    line.die()
    adopted = line.come()
    assert {handle: content(fd) for handle, fd in adopted.fds.items()} == {n: b"%d" % n for n in range(300)}


def test_without_a_session_it_ends_with_its_control_plane(line: Line) -> None:
    line.keep(b"one")
    line.keep(b"")
    line.die()
    with pytest.raises(ChannelClosed):
        line.received()


def test_one_who_asks_for_something_else_is_not_heard(line: Line) -> None:
    line.keep(b"one")
    line.die()
    assert line.received() == []
    with pytest.raises(AdoptionFailed):
        line.come(Pause(1))
    assert line.come().states == {SESSION_PART: b"one"}


def test_one_who_says_nothing_does_not_keep_others_out(line: Line) -> None:
    line.keep(b"one")
    line.die()
    for _ in range(2):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
            silent.connect(line.name)
            assert line.received() == []
            assert line.come().states == {SESSION_PART: b"one"}
        line.die()
        assert line.received() == []


def test_others_who_say_nothing_do_not_keep_out_one_who_has_come(line: Line) -> None:
    """Another control plane has connected and not yet said who it is when others come."""
    line.keep(b"one")
    line.die()
    assert line.received() == []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as end, contextlib.ExitStack() as silent:
        end.connect(line.name)
        assert line.received() == []
        for _ in range(3):
            silent.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)).connect(line.name)
            assert line.received() == []
        end.send(encode_message(HandOver()))
        assert line.received() == []
        assert take_parts(end).states == {SESSION_PART: b"one"}


def test_descriptors_of_one_who_comes_are_let_go(line: Line) -> None:
    line.keep(b"one")
    line.die()
    assert line.received() == []
    reading, writing = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as end:
        end.connect(line.name)
        socket.send_fds(end, [encode_message(Pause(1))], [writing])
        os.close(writing)
        assert line.received() == []
    assert os.read(reading, 1) == b""
    os.close(reading)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_user_is_sent_away_whatever_it_says(line: Line) -> None:
    line.keep(b"one")
    line.die()
    assert line.received() == []
    os.seteuid(NOBODY)
    try:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        end.connect(line.name)
    finally:
        os.seteuid(0)
    assert line.received() == []
    assert end.recv(1) == b""
    end.close()


def test_one_who_comes_too_early_wakes_nobody(line: Line) -> None:
    """A dispatcher that has not begun waits for what is to be heard now, or it would never rest again."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as early:
        early.connect(line.name)
        assert select.select(line.line.watched_fds(), [], [], 0) == ([], [], [])
        line.keep(b"one")
        line.die()
        assert line.received() == []
        assert select.select(line.line.watched_fds(), [], [], 0) == ([], [], [])
        early.send(b"?")
        assert select.select(line.line.watched_fds(), [], [], 0)[0]


def test_a_queue_that_was_reset_is_broken_no_more(line: Line) -> None:
    """Nor is what is kept of it more, however often its guest does that."""
    line.keep(b"one")
    for number in range(3):
        for _ in range(2):
            line.line.send(QueueBroken(0, number))
        line.line.send(QueueBroken(1, number))
        assert line.tell(StopQueue(FIRST + number, 0)) == [StopQueue(FIRST + number, 0)]
    line.line.send(QueueBroken(0, 7))
    line.die()
    line.received()
    line.come()
    assert [message for message in line.heard() if message == QueueBroken(0, 7)] == [QueueBroken(0, 7)]
    line.tell(StopQueue(FIRST + 3, 0))
    line.die()
    line.received()
    line.come()
    assert {message.queue_index for message in line.heard() if isinstance(message, QueueBroken)} == {1}


def test_a_request_that_is_repeated_is_answered_as_before(line: Line) -> None:
    stop = StopQueue(FIRST, 0)
    line.keep(b"one")
    assert line.tell(stop) == [stop]
    line.line.send(Answer(FIRST, value=7))
    line.die()
    line.received()
    line.come()
    assert line.tell(stop) == []
    assert line.heard() == [Answer(FIRST, value=7)]


def test_a_request_that_is_repeated_before_its_answer_is_carried_out_once(line: Line) -> None:
    stop = StopQueue(FIRST, 0)
    line.keep(b"one")
    assert line.tell(stop) == [stop]
    line.die()
    line.received()
    line.come()
    assert line.tell(stop) == []
    line.line.send(Answer(FIRST, value=7))
    assert line.heard() == [Answer(FIRST, value=7)]


def test_another_request_of_the_same_number_is_carried_out(line: Line) -> None:
    """A session that was given up in the middle of a message asks for something else next."""
    line.keep(b"one")
    assert line.tell(StopQueue(FIRST, 0)) == [StopQueue(FIRST, 0)]
    line.line.send(Answer(FIRST, value=7))
    line.die()
    line.received()
    line.come()
    other = EnableQueue(FIRST, 0, True)
    assert line.tell(other) == [other]


def test_once_the_outcome_is_kept_numbers_begin_anew(line: Line) -> None:
    stop = StopQueue(FIRST, 0)
    line.keep(b"one")
    assert line.tell(stop) == [stop]
    line.line.send(Answer(FIRST, value=7))
    line.keep(b"two")
    assert line.tell(stop) == [stop]


@pytest.mark.parametrize("message", [Resume(1), ChangeRegions(FIRST, [1], [])])
def test_others_may_be_carried_out_twice(line: Line, message: ToDispatcher) -> None:
    line.keep(b"one")
    for _ in range(2):
        assert line.tell(message) == [message]
        line.line.send(Answer(getattr(message, "request_id", 0)))


def test_what_nobody_has_heard_is_told_to_the_next(line: Line) -> None:
    line.keep(b"one")
    line.die()
    line.received()
    line.line.send(WorkersWanted(2))
    line.line.send(MemoryLost([1], 0))
    line.line.send(RegionsUnused([3]))  # which the next one asks for
    line.come()
    assert line.heard() == [MemoryLost([1], 0), WorkersWanted(2)]
    assert line.tell(WishAnswered(True)) == [WishAnswered(True)]
    line.die()
    line.received()
    line.come()
    assert line.heard() == [MemoryLost([1], 0)]  # it may come twice


def test_the_protocol_of_an_orphan_is_its_own() -> None:
    assert set(FromOrphan.__args__).isdisjoint(FromDispatcher.__args__)
