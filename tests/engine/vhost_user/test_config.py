"""The config space over a session, and how a front end learns of a change."""

import asyncio
import socket

import pytest

from ringblk.engine.vhost_user.codes import (
    BackendRequest,
    FrontendRequest,
)
from ringblk.engine.vhost_user.message_socket import VhostUserSocket
from ringblk.engine.vhost_user.messages import (
    ConfigSpace,
)
from tests.rigs.fake_device import FakeDevice
from tests.rigs.vhost_user_client import (
    WAIT_SECONDS,
    Served,
    event_fd,
    run_session,
)

R = FrontendRequest


def test_config_is_read_and_written() -> None:
    async def scenario(session: Served, device: FakeDevice) -> None:
        client = session.client
        await client.negotiate()
        assert await client.ask(R.GET_CONFIG, ConfigSpace(8, 1, bytes(4))) == ConfigSpace(
            8, 1, b"\x08\x09\x0a\x0b"
        )
        assert await client.acked(R.SET_CONFIG, ConfigSpace(32, 0, b"\1")) == 0
        assert await client.acked(R.SET_CONFIG, ConfigSpace(0, 0, b"\1")) != 0
        # A guest can cause this one: it is no reason to end its session.
        await client.tell(R.SET_CONFIG, ConfigSpace(0, 0, b"\1"))
        device.refuse.add("read_config")
        await client.tell(R.GET_CONFIG, ConfigSpace(0, 0, bytes(4)))
        assert await client.reply_to(R.GET_CONFIG) == (b"", [])

    device = run_session(scenario)
    assert [call for call in device.calls if call[0] == "write_config"] == [("write_config", 32, b"\1")]


def test_a_config_change_is_told_and_blocks_nobody() -> None:
    async def scenario(session: Served, device: FakeDevice) -> None:
        client = session.client
        assert not session.session.notify_config_change()
        await client.negotiate()
        ours, theirs = socket.socketpair()
        filled_bytes = 0
        while True:
            try:
                filled_bytes += theirs.send(bytes(4096), socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
        with theirs:
            await client.tell(R.SET_BACKEND_REQ_FD, None, (theirs.fileno(),))
        await client.settle()
        for _ in range(3):
            assert session.session.notify_config_change()
            await client.settle()
        with ours:
            while filled_bytes:
                filled_bytes -= len(ours.recv(min(filled_bytes, 65536)))
            channel = VhostUserSocket(ours)
            async with asyncio.timeout(WAIT_SECONDS):
                message = await channel.receive()
            assert message is not None
            assert message.header.request == BackendRequest.CONFIG_CHANGE_MSG
            assert not message.header.is_reply
            assert not message.header.need_reply

    run_session(scenario)


def test_a_config_channel_that_is_none_is_refused() -> None:
    async def scenario(session: Served, device: FakeDevice) -> None:
        await session.client.negotiate()
        with event_fd() as fd:
            assert await session.client.acked(R.SET_BACKEND_REQ_FD, None, (fd,)) != 0
        assert not session.session.notify_config_change()

    run_session(scenario)


def test_a_new_config_channel_takes_the_place_of_the_old() -> None:
    async def scenario(session: Served, device: FakeDevice) -> None:
        await session.client.negotiate()
        first, first_end = socket.socketpair()
        second, second_end = socket.socketpair()
        with first, second:
            with first_end, second_end:
                assert await session.client.acked(R.SET_BACKEND_REQ_FD, None, (first_end.fileno(),)) == 0
                assert await session.client.acked(R.SET_BACKEND_REQ_FD, None, (second_end.fileno(),)) == 0
            assert first.recv(1, socket.MSG_DONTWAIT) == b""
            with pytest.raises(BlockingIOError):
                second.recv(1, socket.MSG_DONTWAIT)

    run_session(scenario)
