"""What is marked in shared memory of a session, by the kernel and by us."""

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from ringblk.engine.vhost_user.codes import FrontendRequest
from ringblk.engine.vhost_user.messages import encode_message, encode_shmem_config
from ringblk.engine.vhost_user.session_marks import MAX_REPLY_BYTES, SessionMarks
from tests.rigs.vhost_user_client import no_fd_left


@pytest.fixture
def marks() -> Iterator[SessionMarks]:
    marks = SessionMarks.make()
    yield marks
    marks.close()


def seen_by_the_next(marks: SessionMarks) -> SessionMarks:
    return SessionMarks(os.dup(marks.fd))


def test_a_reply_is_marked_when_it_is_sent(marks: SessionMarks) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        following = seen_by_the_next(marks)
        assert not following.was_sent(1)
        assert marks.send(ours.fileno(), 1, b"reply", [ours.fileno()]) == 5
        assert following.was_sent(1)
        assert not following.was_sent(2)
        data, fds, _, _ = socket.recv_fds(theirs, 100, 2)
        assert data == b"reply"
        (fd,) = fds
        assert os.path.sameopenfile(fd, ours.fileno())
        os.close(fd)
        following.close()


def test_what_has_no_room_is_not_marked(marks: SessionMarks) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the least there is
        count = 0
        with contextlib.suppress(BlockingIOError):
            while marks.send(ours.fileno(), count + 1, bytes(MAX_REPLY_BYTES), []):
                count += 1
        assert count
        assert not marks.was_sent(count + 1)
        assert not marks.was_sent(count)  # nobody asks for it: the next reply is kept before it is sent
        theirs.recv(1 << 20)
        assert marks.send(ours.fileno(), count + 1, bytes(MAX_REPLY_BYTES), []) == MAX_REPLY_BYTES
        assert marks.was_sent(count + 1)


def test_there_is_room_for_the_longest_reply() -> None:
    payload = encode_shmem_config([1 << 30])
    assert len(encode_message(FrontendRequest.GET_SHMEM_CONFIG, payload, reply=True)) <= MAX_REPLY_BYTES


def test_a_peer_that_is_gone_has_nothing_sent(marks: SessionMarks) -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, pytest.raises(BrokenPipeError):
        marks.send(ours.fileno(), 1, b"reply", [])
    assert not marks.was_sent(1)


def test_a_change_is_untold_for_the_next_too(marks: SessionMarks) -> None:
    following = seen_by_the_next(marks)
    assert not following.is_change_untold
    marks.is_change_untold = True
    assert following.is_change_untold
    following.is_change_untold = False
    assert not marks.is_change_untold
    following.close()


def test_who_keeps_the_memory_cannot_take_it_away(marks: SessionMarks) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(marks.fd, 0)


def test_nothing_is_left() -> None:
    with no_fd_left():
        SessionMarks.make().close()
