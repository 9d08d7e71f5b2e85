import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable

import pytest

from ringblk.engine.vhost_user.codes import FrontendRequest
from ringblk.engine.vhost_user.kept_socket import KeptSocket
from ringblk.engine.vhost_user.message_socket import ReceivedMessage, VhostUserSocket
from ringblk.engine.vhost_user.messages import BadMessage, encode_message
from tests.rigs.vhost_user_client import REGION, WAIT_SECONDS, encode, event_fd, no_fd_left

MESSAGE = encode_message(FrontendRequest.ADD_MEM_REG, encode(REGION))


async def next_message(connection: VhostUserSocket) -> ReceivedMessage:
    message = await connection.receive()
    assert message is not None
    connection.take(message)
    return message


Scenario = Callable[[socket.socket, VhostUserSocket], Awaitable[None]]
OverAPair = Callable[[Scenario], None]


@pytest.fixture(params=[VhostUserSocket, KeptSocket])
def over_a_pair(request: pytest.FixtureRequest) -> OverAPair:
    """Runs `scenario(raw socket, connection at its other end)`, and sees that it leaves no fd."""

    def run(scenario: Scenario) -> None:
        async def main() -> None:
            ours, theirs = socket.socketpair()
            connection = request.param(theirs)
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    await scenario(ours, connection)
            finally:
                ours.close()
                connection.close()

        with no_fd_left():
            asyncio.run(main())

    return run


def same_file(fd: int, other_fd: int) -> bool:
    os.eventfd_write(fd, 1)
    return os.eventfd_read(other_fd) == 1


def test_who_owes_a_message_or_the_reading_of_ours_has_stalled(over_a_pair: OverAPair) -> None:
    async def scenario(ours: socket.socket, connection: VhostUserSocket) -> None:
        assert connection.stalled_s > 0  # the first message
        ours.sendall(encode_message(1))
        await next_message(connection)
        assert connection.stalled_s == 0
        receiving = asyncio.create_task(next_message(connection))
        ours.sendall(MESSAGE[:-1])
        while not connection.stalled_s:
            await asyncio.sleep(0)
        ours.sendall(MESSAGE[-1:])
        await receiving
        assert connection.stalled_s == 0
        sending = asyncio.create_task(connection.send(bytes(1 << 24)))
        while not connection.stalled_s:
            await asyncio.sleep(0)
        ours.setblocking(False)
        while not sending.done():
            with contextlib.suppress(BlockingIOError):
                ours.recv(1 << 20)
            await asyncio.sleep(0)
        assert connection.stalled_s == 0

    over_a_pair(scenario)


@pytest.mark.parametrize("cut", range(1, len(MESSAGE)))
@pytest.mark.parametrize("fd_with_first", [True, False])
def test_fds_with_any_fragment_belong_to_the_message(
    over_a_pair: OverAPair, cut: int, fd_with_first: bool
) -> None:
    async def scenario(ours: socket.socket, connection: VhostUserSocket) -> None:
        with event_fd() as fd:
            receiving = asyncio.create_task(next_message(connection))
            socket.send_fds(ours, [MESSAGE[:cut]], [fd] if fd_with_first else [])
            await asyncio.sleep(0)
            socket.send_fds(ours, [MESSAGE[cut:]], [] if fd_with_first else [fd])
            message = await receiving
            assert message.payload == encode(REGION)
            with message.fds:
                (received,) = message.fds.take()
            assert same_file(fd, received)
            os.close(received)

    over_a_pair(scenario)


def test_messages_sent_together_keep_their_own_fds(over_a_pair: OverAPair) -> None:
    async def scenario(ours: socket.socket, connection: VhostUserSocket) -> None:
        with event_fd() as fd:
            ours.sendall(encode_message(1) + encode_message(2))
            socket.send_fds(ours, [MESSAGE], [fd, fd])
            ours.sendall(encode_message(3))
        found = []
        for _ in range(4):
            message = await next_message(connection)
            found.append((message.header.request, len(message.fds)))
            message.fds.close()
        assert found == [(1, 0), (2, 0), (FrontendRequest.ADD_MEM_REG, 2), (3, 0)]

    over_a_pair(scenario)


@pytest.mark.parametrize("fd_counts", [(9,), (4, 5), (200,)])
def test_too_many_fds_are_refused_and_closed(over_a_pair: OverAPair, fd_counts: tuple[int, ...]) -> None:
    async def scenario(ours: socket.socket, connection: VhostUserSocket) -> None:
        with event_fd() as fd:
            for index, fd_count in enumerate(fd_counts):
                socket.send_fds(ours, [MESSAGE[index * 10 : index * 10 + 10]], [fd] * fd_count)
        with pytest.raises(BadMessage, match="more than 8 fds"):
            await connection.receive()

    over_a_pair(scenario)


@pytest.mark.parametrize("length", range(1, len(MESSAGE)))
def test_an_end_in_the_middle_is_refused(over_a_pair: OverAPair, length: int) -> None:
    async def scenario(ours: socket.socket, connection: VhostUserSocket) -> None:
        with event_fd() as fd:
            socket.send_fds(ours, [MESSAGE[:length]], [fd])
        ours.close()
        with pytest.raises(BadMessage, match="connection ended after"):
            await connection.receive()

    over_a_pair(scenario)


def test_an_end_between_messages_is_none(over_a_pair: OverAPair) -> None:
    async def scenario(ours: socket.socket, connection: VhostUserSocket) -> None:
        ours.sendall(encode_message(1))
        ours.close()
        assert (await next_message(connection)).header.request == 1
        assert await connection.receive() is None

    over_a_pair(scenario)


def test_a_cancelled_receive_closes_what_it_has(over_a_pair: OverAPair) -> None:
    async def scenario(ours: socket.socket, connection: VhostUserSocket) -> None:
        with event_fd() as fd:
            socket.send_fds(ours, [MESSAGE[:20]], [fd])
        fd_count = len(os.listdir("/proc/self/fd"))
        receiving = asyncio.create_task(connection.receive())
        while len(os.listdir("/proc/self/fd")) == fd_count:
            await asyncio.sleep(0)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving

    over_a_pair(scenario)


def test_a_hang_up_is_told_though_messages_wait_to_be_read(over_a_pair: OverAPair) -> None:
    async def scenario(ours: socket.socket, connection: VhostUserSocket) -> None:
        waiting = asyncio.create_task(connection.wait_hang_up())
        ours.sendall(MESSAGE)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
        ours.close()
        await waiting
        assert (await next_message(connection)).payload == encode(REGION)

    over_a_pair(scenario)


def test_a_send_waits_for_room_and_carries_its_fd(over_a_pair: OverAPair) -> None:
    async def scenario(ours: socket.socket, connection: VhostUserSocket) -> None:
        other = VhostUserSocket(ours)
        fill = encode_message(1, bytes(4000))
        filled = 0
        while True:
            try:
                connection._socket.send(fill, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            filled += 1
        with event_fd() as fd:
            sending = asyncio.create_task(connection.send(MESSAGE, (fd,)))
            await asyncio.sleep(0)
            assert not sending.done()
            for _ in range(filled):
                assert (await next_message(other)).header.request == 1
            message = await next_message(other)
            await sending
            with message.fds:
                (received,) = message.fds.take()
            assert same_file(fd, received)
            os.close(received)

    over_a_pair(scenario)


def test_a_send_to_nobody_is_an_error(over_a_pair: OverAPair) -> None:
    async def scenario(ours: socket.socket, connection: VhostUserSocket) -> None:
        ours.close()
        with pytest.raises(ConnectionError):
            await connection.send(MESSAGE)

    over_a_pair(scenario)
