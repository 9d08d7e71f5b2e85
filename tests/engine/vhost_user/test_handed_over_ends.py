"""However a front end has the engine hold its own end: when it has gone, the next one is served."""

import array
import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringblk.engine.vhost_user.codes import FrontendRequest
from ringblk.engine.vhost_user.descriptor_seal import is_read_by_peer, look_ahead, seal, seal_unread
from ringblk.engine.vhost_user.messages import BadMessage, encode_message
from ringblk.engine.vhost_user.waiting_frontends import MAX_WAITING
from ringblk.workers.uring.ring import Uring
from tests.rigs.engine_rig import DEADLINE_S, Engine, RawFrontend, eventually

SET_BACKEND_REQ_FD = FrontendRequest.SET_BACKEND_REQ_FD
SocketPair = tuple[socket.socket, socket.socket]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    image = tmp_path_factory.mktemp("images") / "disk.img"
    image.write_bytes(bytes(1 << 20))
    with Engine(f"--blk-file={image}", "--workers=1") as engine:
        yield engine


@pytest.fixture
def pair() -> Iterator[SocketPair]:
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


def send_fds(end: socket.socket, data: bytes, *fds: int, flags: int = 0) -> None:
    end.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))], flags)


def connect(engine: Engine) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX)
    connected.settimeout(DEADLINE_S)
    connected.connect(str(engine.socket_path))
    return connected


def greet(engine: Engine) -> socket.socket:
    """A session whose protocol is negotiated, and that is settled, so that it is the one being served."""
    frontend = RawFrontend(engine)
    frontend.negotiate()
    own = frontend.connection.socket.dup()
    own.settimeout(DEADLINE_S)
    frontend.close()
    return own


def message(request: int, payload: bytes = b"") -> bytes:
    return encode_message(request, payload)


# Ways to have an engine hold one's own end. Each is given that end, and closes whatever else it made.


def as_channel(own: socket.socket, _: Engine) -> None:
    send_fds(own, message(SET_BACKEND_REQ_FD), own.fileno())


def hidden_before(own: socket.socket, _: Engine) -> None:
    ours, theirs = socket.socketpair()
    send_fds(ours, b"x", own.fileno())
    send_fds(own, message(SET_BACKEND_REQ_FD), theirs.fileno())
    ours.close()
    theirs.close()


def hidden_after(own: socket.socket, engine: Engine) -> None:
    ours, theirs = socket.socketpair()
    send_fds(own, message(SET_BACKEND_REQ_FD), theirs.fileno())
    own.sendall(message(FrontendRequest.GET_FEATURES))
    own.recv(20)  # the channel is in use now
    with contextlib.suppress(OSError):  # as it should be
        send_fds(ours, b"x", own.fileno())
    ours.close()
    theirs.close()


def hidden_deep(own: socket.socket, _: Engine) -> None:
    inner = socket.socketpair()
    outer = socket.socketpair()
    send_fds(inner[0], b"x", own.fileno())
    send_fds(outer[0], b"x", inner[1].fileno())
    send_fds(own, message(SET_BACKEND_REQ_FD), outer[1].fileno())
    for end in (*inner, *outer):
        end.close()


def hidden_out_of_band(own: socket.socket, _: Engine) -> None:
    ours, theirs = socket.socketpair()
    send_fds(ours, b"x", own.fileno(), flags=socket.MSG_OOB)
    send_fds(own, message(SET_BACKEND_REQ_FD), theirs.fileno())
    ours.close()
    theirs.close()


def out_of_band(own: socket.socket, _: Engine) -> None:
    send_fds(own, b"x", own.fileno(), flags=socket.MSG_OOB)


def in_a_backlog(own: socket.socket, engine: Engine) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(engine.folder / "other"))
    listening.listen()
    sender = socket.socket(socket.AF_UNIX)
    sender.connect(str(engine.folder / "other"))
    os.unlink(engine.folder / "other")
    send_fds(sender, b"x", own.fileno())
    send_fds(own, message(SET_BACKEND_REQ_FD), listening.fileno())
    sender.close()
    listening.close()


def as_unconnected_that_listens_later(own: socket.socket, engine: Engine) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(engine.folder / "other"))
    send_fds(own, message(SET_BACKEND_REQ_FD), listening.fileno())
    listening.listen()
    with socket.socket(socket.AF_UNIX) as sender:
        sender.connect(str(engine.folder / "other"))
        send_fds(sender, b"x", own.fileno())
    os.unlink(engine.folder / "other")
    listening.close()


def in_half_a_message(own: socket.socket, _: Engine) -> None:
    send_fds(own, message(SET_BACKEND_REQ_FD)[:7], own.fileno())


def in_a_datagram_socket(own: socket.socket, _: Engine) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    send_fds(ours, b"x", own.fileno())
    send_fds(own, message(SET_BACKEND_REQ_FD)[:7], theirs.fileno())
    ours.close()
    theirs.close()


def with_a_message_that_takes_no_fd(own: socket.socket, _: Engine) -> None:
    send_fds(own, message(FrontendRequest.GET_FEATURES), own.fileno())


def behind_answers_that_nobody_reads(own: socket.socket, _: Engine) -> None:
    question = message(FrontendRequest.GET_FEATURES)
    own.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            own.sendall(question[:])
    own.setblocking(True)
    # Whatever the engine answers now it waits with, for nobody reads; what comes last is not read by it.
    own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    own.settimeout(DEADLINE_S)
    send_fds(own, message(SET_BACKEND_REQ_FD), own.fileno())


def in_what_another_has_sent_that_waits(own: socket.socket, engine: Engine) -> None:
    with connect(engine) as other:
        send_fds(other, message(FrontendRequest.SET_OWNER), own.fileno())


def in_what_another_sends_to_itself(own: socket.socket, engine: Engine) -> None:
    with connect(engine) as other:
        send_fds(other, message(FrontendRequest.SET_OWNER), own.fileno(), other.fileno())


def in_what_others_that_wait_send_of_each_other(own: socket.socket, engine: Engine) -> None:
    with connect(engine) as second, connect(engine) as third:
        second.sendall(message(FrontendRequest.SET_OWNER))
        send_fds(second, message(FrontendRequest.SET_OWNER), third.fileno())
        send_fds(third, b"x", own.fileno(), second.fileno(), flags=socket.MSG_OOB)


def hidden_deep_in_what_another_has_sent(own: socket.socket, engine: Engine) -> None:
    with connect(engine) as other:
        ours, theirs = socket.socketpair()
        send_fds(other, message(SET_BACKEND_REQ_FD), theirs.fileno())
        with contextlib.suppress(OSError):  # once it is sealed
            send_fds(ours, b"x", own.fileno())
        ours.close()
        theirs.close()


@pytest.mark.parametrize(
    "hand_over",
    [
        as_channel,
        hidden_before,
        hidden_after,
        hidden_deep,
        hidden_out_of_band,
        out_of_band,
        in_a_backlog,
        as_unconnected_that_listens_later,
        in_half_a_message,
        in_a_datagram_socket,
        with_a_message_that_takes_no_fd,
        behind_answers_that_nobody_reads,
        in_what_another_has_sent_that_waits,
        in_what_another_sends_to_itself,
        in_what_others_that_wait_send_of_each_other,
        hidden_deep_in_what_another_has_sent,
    ],
)
def test_a_front_end_that_has_gone_is_seen_to_be_gone(
    engine: Engine, hand_over: Callable[[socket.socket, Engine], None]
) -> None:
    inode = peer_count(engine)
    own = greet(engine)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the engine may be that quick
        hand_over(own, engine)
    own.close()
    # Nobody waits for the engine here, so nothing but the end itself can have ended the session.
    eventually(lambda: peer_count(engine) <= inode, "the engine's letting go of its front ends")
    engine.say_hello()


def peer_count(engine: Engine) -> int:
    """The sockets that the engine has open."""
    folder = Path(f"/proc/{engine.process.pid}/fd")
    links = []
    for entry in folder.iterdir():
        with contextlib.suppress(OSError):
            links.append(os.readlink(entry))
    return sum(link.startswith("socket:") for link in links)


def test_a_channel_still_takes_what_is_sent_to_the_front_end(engine: Engine) -> None:
    own = greet(engine)
    ours, theirs = socket.socketpair()
    send_fds(own, message(SET_BACKEND_REQ_FD), theirs.fileno())
    own.sendall(message(FrontendRequest.GET_FEATURES))
    assert own.recv(20)
    theirs.close()
    with pytest.raises(BrokenPipeError):
        ours.send(b"x")
    own.close()
    assert ours.recv(1) == b""  # the engine has closed it, and nothing was broken off before
    ours.close()


def test_those_who_wait_are_served_in_turn_and_those_who_are_too_many_turned_away(engine: Engine) -> None:
    own = greet(engine)
    waiting = [connect(engine) for _ in range(MAX_WAITING)]
    for end in waiting:
        end.sendall(message(FrontendRequest.GET_FEATURES))
    with connect(engine) as one_too_many:
        assert one_too_many.recv(1) == b""
    own.close()
    for end in waiting:
        assert len(end.recv(100)) == 20
        end.close()


# The seal itself.


def test_a_sealed_socket_is_empty_and_stays_so(pair: SocketPair) -> None:
    ours, theirs = pair
    with socket.socket(socket.AF_UNIX) as hidden:
        for _ in range(5):
            send_fds(ours, b"x" * 1000, hidden.fileno())
    assert is_read_by_peer(ours)
    assert seal(theirs.fileno())
    assert theirs.recv(1) == b""
    assert not is_read_by_peer(ours)
    assert is_read_by_peer(theirs)


def test_a_descriptor_in_a_sealed_socket_is_closed(pair: SocketPair) -> None:
    ours, theirs = pair
    read_fd, write_fd = os.pipe()
    send_fds(ours, b"x", write_fd)
    os.close(write_fd)
    seal(theirs.fileno())
    assert os.read(read_fd, 1) == b""
    os.close(read_fd)


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_other_unix_sockets_are_refused(kind: socket.SocketKind) -> None:
    for end in socket.socketpair(socket.AF_UNIX, kind):
        with end, pytest.raises(BadMessage, match="no connected stream"):
            seal(end.fileno())


def test_an_io_uring_is_refused() -> None:
    try:
        uring = Uring(2)
    except OSError as error:
        pytest.skip(f"no io_uring here: {error}")
    with pytest.raises(BadMessage, match="io_uring"):
        seal(uring.fileno())


def test_what_holds_no_descriptors_is_left_alone(tmp_path: Path) -> None:
    for fd in (os.eventfd(0), os.memfd_create("x"), os.open(tmp_path, os.O_PATH), *os.pipe()):
        assert not seal(fd)
        os.close(fd)
    with socket.socket() as other_family:
        assert not seal(other_family.fileno())


def test_what_was_looked_at_is_read_once_and_whole(pair: SocketPair) -> None:
    ours, theirs = pair
    look_ahead(theirs, begin=True)
    kept: list[int] = []
    for part in range(3):
        channel, other = socket.socketpair()
        send_fds(ours, b"%d" % part * 100, channel.fileno())
        ours.sendall(b"-" * 50)
        assert seal_unread(theirs)
        assert not is_read_by_peer(other)
        assert not seal_unread(theirs)  # looked at already
        channel.close()
        other.close()
    look_ahead(theirs, begin=False)
    data = b""
    while len(data) < 450:
        piece, fds, _, _ = socket.recv_fds(theirs, 1000, 10)
        data += piece
        kept += fds
    assert data == b"".join(b"%d" % part * 100 + b"-" * 50 for part in range(3))
    assert len(kept) == 3
    for fd in kept:
        os.close(fd)
