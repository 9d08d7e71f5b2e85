"""A connection whose messages are looked at before they are taken out."""

import array
import asyncio
import contextlib
import os
import random
import socket
from collections.abc import Iterator

import pytest

from ringblk.engine.vhost_user.codes import FrontendRequest
from ringblk.engine.vhost_user.kept_socket import KeptSocket
from ringblk.engine.vhost_user.message_socket import VhostUserSocket
from ringblk.engine.vhost_user.messages import BadMessage, encode_message
from ringblk.shm.platform.socket_options import looked_at_bytes
from tests.rigs.vhost_user_client import REGION, WAIT_SECONDS, encode, no_fd_left

MESSAGE = encode_message(FrontendRequest.ADD_MEM_REG, encode(REGION))
Read = list[tuple[int, bytes, list[int]]]


@contextlib.contextmanager
def memory_fds(count: int) -> Iterator[list[int]]:
    fds = [os.memfd_create("memory") for _ in range(count)]
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def send(end: socket.socket, data: bytes, *fds: int) -> None:
    end.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])


async def read_all(connection: VhostUserSocket) -> tuple[Read, bool]:
    """All messages with the inodes of their fds, and whether nothing was wrong with the last."""
    read: Read = []
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            while (message := await connection.receive()) is not None:
                with message.fds:
                    connection.take(message)
                    inodes = [os.fstat(fd).st_ino for fd in message.fds.fds]
                    read.append((message.header.request, message.payload, inodes))
    except BadMessage:  # of two faults either may be found first
        return read, False
    finally:
        connection.close()
    return read, True


def read_as_sent(pieces: list[tuple[bytes, list[int]]], kind: type[VhostUserSocket]) -> tuple[Read, bool]:
    ours, theirs = socket.socketpair()
    with ours:
        for data, fds in pieces:
            send(ours, data, *fds)
    with theirs, no_fd_left():
        return asyncio.run(read_all(kind(theirs.dup())))


@pytest.mark.parametrize("seed", range(300))
def test_each_fd_belongs_to_the_message_that_it_would_have_been_read_with(seed: int) -> None:
    """Whatever the pieces: ends of messages within them, fds at any, several messages in one."""
    chosen = random.Random(seed)
    payloads = [chosen.randbytes(chosen.choice((0, 0, 1, 8, 40))) for _ in range(chosen.randint(1, 8))]
    stream = b"".join(encode_message(index + 1, payload) for index, payload in enumerate(payloads))
    if chosen.random() < 0.2:
        stream = stream[:-1]
    cuts = sorted(chosen.sample(range(1, len(stream)), min(len(stream) - 1, chosen.choice((0, 2, 8, 30)))))
    with memory_fds(3) as fds:
        pieces = [
            (stream[start:end], chosen.sample(fds, chosen.choice((0, 0, 1, 2))))
            for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        ]
        assert read_as_sent(pieces, KeptSocket) == read_as_sent(pieces, VhostUserSocket)


def test_a_message_stays_until_it_is_taken() -> None:
    async def main(ours: socket.socket, theirs: socket.socket) -> None:
        with memory_fds(1) as (fd,):
            send(ours, MESSAGE[:20], fd)
            send(ours, MESSAGE[20:] + MESSAGE)
            first, second = KeptSocket(theirs.dup()), KeptSocket(theirs.dup())
            for connection in (first, second):
                message = await connection.receive()
                assert message is not None
                with message.fds:
                    assert message.data == MESSAGE
                    assert os.path.samestat(os.fstat(message.fds.fds[0]), os.fstat(fd))
                assert looked_at_bytes(theirs) == len(MESSAGE)
            # The first is killed when it has taken some of it.
            taken = len(theirs.recv(30))
            first.close()
            assert 0 < looked_at_bytes(theirs) == len(MESSAGE) - taken
            second.take_rest()
            assert looked_at_bytes(theirs) == 0
            message = await second.receive()
            assert message is not None
            assert len(message.fds) == 0
            second.close()

    ours, theirs = socket.socketpair()
    with no_fd_left():
        asyncio.run(main(ours, theirs))
    ours.close()
    theirs.close()


def test_half_a_message_keeps_nobody_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    look = KeptSocket._look

    def counted(connection: KeptSocket) -> object:
        nonlocal looks
        looks += 1
        return look(connection)

    monkeypatch.setattr(KeptSocket, "_look", counted)

    async def main() -> None:
        ours, theirs = socket.socketpair()
        connection = KeptSocket(theirs)
        receiving = asyncio.create_task(connection.receive())
        for size in range(1, len(MESSAGE)):
            before = looks
            ours.send(MESSAGE[size - 1 : size])
            while looks == before:
                await asyncio.sleep(0)
            for _ in range(20):
                await asyncio.sleep(0)
        # The first look finds nothing, or more; the registration is an event of its own.
        assert looks <= len(MESSAGE) + 2
        ours.send(MESSAGE[-1:])
        message = await receiving
        assert message is not None
        connection.take(message)
        ours.close()
        connection.close()

    asyncio.run(main())


def test_another_reader_is_a_broken_connection() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with theirs, ours:
            connection = KeptSocket(theirs.dup())
            ours.send(MESSAGE)
            message = await connection.receive()
            assert message is not None
            theirs.recv(1)
            with pytest.raises(BadMessage, match="somebody else"):
                connection.take(message)
            connection.close()

    asyncio.run(main())


@pytest.mark.parametrize("size", [5, 20, len(MESSAGE)])
def test_its_own_end_is_not_held_open_by_what_is_unread(size: int) -> None:
    """Else the front end could not be seen to go (`descriptor_seal`)."""

    async def main() -> None:
        ours, theirs = socket.socketpair()
        connection = KeptSocket(theirs)
        with ours:
            send(ours, MESSAGE[:size], ours.fileno())
            async with asyncio.timeout(WAIT_SECONDS):
                with pytest.raises(BadMessage, match="its own end"):
                    await connection.receive()
        connection.close()

    with no_fd_left():
        asyncio.run(main())
