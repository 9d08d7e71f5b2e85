"""Front ends that break the protocol, vanish, or ask for what cannot be: the session ends, nothing leaks."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

import pytest

from ringblk.engine.devices.features import F_VERSION_1
from ringblk.engine.vhost_user.codes import F_PROTOCOL_FEATURES, FrontendRequest, ProtocolFeature
from ringblk.engine.vhost_user.messages import (
    ConfigSpace,
    InflightDescription,
    LogDescription,
    Payload,
    StateDescription,
    VringAddress,
    VringFd,
    VringState,
    encode_message,
)
from ringblk.engine.vhost_user.session import serve_session
from tests.rigs.fake_device import FakeDevice
from tests.rigs.vhost_user_client import (
    REGION,
    Client,
    encode,
    event_fd,
    memory_fd,
    no_fd_left,
    ring_address,
    served,
)

R = FrontendRequest

# A well-formed message of every kind: payload, and how many fds it takes.
VALID: dict[FrontendRequest, tuple[Payload, int]] = {
    R.GET_FEATURES: (None, 0),
    R.SET_FEATURES: (F_VERSION_1 | F_PROTOCOL_FEATURES, 0),
    R.SET_OWNER: (None, 0),
    R.RESET_OWNER: (None, 0),
    R.SET_MEM_TABLE: ((REGION,), 1),
    R.SET_LOG_BASE: (LogDescription(4096, 0), 1),
    R.SET_LOG_FD: (None, 1),
    R.SET_VRING_NUM: (VringState(0, 64), 0),
    R.SET_VRING_ADDR: (ring_address(), 0),
    R.SET_VRING_BASE: (VringState(0, 0), 0),
    R.GET_VRING_BASE: (VringState(0, 0), 0),
    R.SET_VRING_KICK: (VringFd(0, True), 1),
    R.SET_VRING_CALL: (VringFd(0, True), 1),
    R.SET_VRING_ERR: (VringFd(0, True), 1),
    R.GET_PROTOCOL_FEATURES: (None, 0),
    R.SET_PROTOCOL_FEATURES: (int(ProtocolFeature.REPLY_ACK), 0),
    R.GET_QUEUE_NUM: (None, 0),
    R.SET_VRING_ENABLE: (VringState(0, 1), 0),
    R.SET_BACKEND_REQ_FD: (None, 1),
    R.GET_CONFIG: (ConfigSpace(0, 0, bytes(8)), 0),
    R.SET_CONFIG: (ConfigSpace(32, 0, b"\1"), 0),
    R.GET_INFLIGHT_FD: (InflightDescription(0, 0, 1, 64), 0),
    R.SET_INFLIGHT_FD: (InflightDescription(4096, 0, 1, 64), 1),
    R.RESET_DEVICE: (None, 0),
    R.GET_MAX_MEM_SLOTS: (None, 0),
    R.ADD_MEM_REG: (REGION, 1),
    R.REM_MEM_REG: (REGION, 0),
    R.SET_STATUS: (1, 0),
    R.GET_STATUS: (None, 0),
    R.GET_SHMEM_CONFIG: (None, 0),
    R.SET_DEVICE_STATE_FD: (StateDescription(0, 0), 1),
    R.CHECK_DEVICE_STATE: (None, 0),
    R.GET_VRING_BASE_SKIP_DRAIN: (VringState(0, 0), 0),
}
NEED_FEATURE = [
    *(R.GET_CONFIG, R.SET_CONFIG, R.SET_BACKEND_REQ_FD, R.GET_INFLIGHT_FD, R.SET_INFLIGHT_FD),
    *(R.RESET_DEVICE, R.GET_MAX_MEM_SLOTS, R.ADD_MEM_REG, R.REM_MEM_REG, R.SET_STATUS, R.GET_STATUS),
    *(R.SET_LOG_BASE, R.SET_LOG_FD, R.GET_SHMEM_CONFIG, R.GET_VRING_BASE_SKIP_DRAIN),
    *(R.SET_DEVICE_STATE_FD, R.CHECK_DEVICE_STATE),
]


def test_every_request_is_tried() -> None:
    assert set(VALID) == set(FrontendRequest)


def ends_by(
    caplog: pytest.LogCaptureFixture,
    scenario: Callable[[Client, FakeDevice], Awaitable[None]],
    *,
    hang_up: bool = False,
) -> str:
    """Run `scenario(client, device)`; the session must end, all closed. The one error line that says why.

    After that the same device serves a next front end.
    """

    async def main() -> None:
        device = FakeDevice()
        async with served(device) as session:
            await scenario(session.client, device)
            if hang_up:
                session.client.socket.close()
            await session.ended()
        assert device.names()[-1] == "reset"
        async with served(device) as session:
            await session.client.negotiate()
            await session.client.settle()

    caplog.clear()
    caplog.set_level(logging.WARNING)
    with no_fd_left():
        asyncio.run(main())
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    return record.getMessage()


async def send_raw(client: Client, data: bytes, fd_count: int = 0) -> None:
    with memory_fd() as fd:
        await client.socket.send(data, (fd,) * fd_count)


@pytest.mark.parametrize("request_", FrontendRequest)
def test_a_message_cut_off_anywhere_by_a_hang_up(
    caplog: pytest.LogCaptureFixture, request_: FrontendRequest
) -> None:
    payload, fd_count = VALID[request_]
    message = encode_message(request_, encode(payload))
    for length in range(1, len(message)):

        async def scenario(client: Client, device: FakeDevice, length: int = length) -> None:
            await client.negotiate()
            await send_raw(client, message[:length], fd_count)

        assert "connection ended after" in ends_by(caplog, scenario, hang_up=True)


@pytest.mark.parametrize("request_", FrontendRequest)
def test_a_payload_of_any_other_size(caplog: pytest.LogCaptureFixture, request_: FrontendRequest) -> None:
    payload, fd_count = VALID[request_]
    whole = encode(payload)
    for length in range(len(whole) + 9):
        if length == len(whole) or (request_.name.endswith("INFLIGHT_FD") and length == 20):
            continue

        async def scenario(client: Client, device: FakeDevice, length: int = length) -> None:
            await client.negotiate()
            await send_raw(client, encode_message(request_, whole.ljust(length, b"\0")[:length]), fd_count)

        assert f": {request_.name}: payload of {length} bytes" in ends_by(caplog, scenario)


@pytest.mark.parametrize("need_reply", [False, True])
@pytest.mark.parametrize("request_", FrontendRequest)
def test_any_other_number_of_fds(
    caplog: pytest.LogCaptureFixture, request_: FrontendRequest, need_reply: bool
) -> None:
    payload, right_count = VALID[request_]
    for fd_count in range(9):
        if fd_count == right_count or (request_ is R.REM_MEM_REG and fd_count == 1):
            continue

        async def scenario(client: Client, device: FakeDevice, fd_count: int = fd_count) -> None:
            await client.negotiate()
            await send_raw(client, encode_message(request_, encode(payload), need_reply=need_reply), fd_count)

        assert f": {request_.name}: {fd_count} fds, expected" in ends_by(caplog, scenario)


@pytest.mark.parametrize("request_", [R.SET_VRING_KICK, R.SET_VRING_CALL, R.SET_VRING_ERR])
def test_an_fd_where_none_is_announced(caplog: pytest.LogCaptureFixture, request_: FrontendRequest) -> None:
    async def scenario(client: Client, device: FakeDevice) -> None:
        await client.negotiate()
        await send_raw(client, encode_message(request_, encode(VringFd(0, False))), 1)

    assert f"{request_.name}: 1 fds, expected 0" in ends_by(caplog, scenario)


def test_nine_fds(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(client: Client, device: FakeDevice) -> None:
        await send_raw(client, encode_message(R.SET_OWNER), 9)

    assert "more than 8 fds" in ends_by(caplog, scenario)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (encode_message(R.SET_OWNER)[:4] + b"\2\0\0\0" + bytes(4), "SET_OWNER: version 2"),
        (encode_message(R.SET_OWNER, bytes(5000)), "SET_OWNER: payload of 5000 bytes"),
        (encode_message(R.GET_FEATURES, reply=True), "GET_FEATURES: a reply"),
        (b"\xff" * 12, "request 4294967295: version 3"),
    ],
)
def test_wrong_headers(caplog: pytest.LogCaptureFixture, data: bytes, fault: str) -> None:
    async def scenario(client: Client, device: FakeDevice) -> None:
        await send_raw(client, data)

    assert fault in ends_by(caplog, scenario)


REFUSED: list[tuple[int, Payload, str]] = [
    (R.SET_FEATURES, 1 << 50, "features 0x4000000000000 are not on offer"),
    (R.SET_PROTOCOL_FEATURES, 1 << 2, "protocol features 0x4 are not on offer"),
    (R.SET_VRING_NUM, VringState(4, 64), "queue index 4, with 4 queues"),
    (R.SET_VRING_BASE, VringState(2**32 - 1, 0), "queue index 4294967295"),
    (R.SET_VRING_ADDR, ring_address(4), "queue index 4"),
    (R.SET_VRING_ENABLE, VringState(4, 1), "queue index 4"),
    (R.SET_VRING_KICK, VringFd(4, False), "queue index 4"),
    (R.SET_VRING_CALL, VringFd(255, False), "queue index 255"),
    (R.SET_VRING_ERR, VringFd(4, False), "queue index 4"),
    *((R.SET_VRING_NUM, VringState(0, size), f"queue size {size}") for size in (0, 1, 3, 100, 32767, 65536)),
    (R.SET_VRING_ADDR, VringAddress(0, 0, 8, 4, 2), "descriptor table at 0x8 is not aligned to 16"),
    (R.SET_VRING_ADDR, VringAddress(0, 0, 16, 2, 2), "used ring at 0x2 is not aligned to 4"),
    (R.SET_VRING_ADDR, VringAddress(0, 0, 16, 4, 1), "available ring at 0x1 is not aligned to 2"),
    (R.SET_VRING_ADDR, VringAddress(0, 2, 16, 4, 2), "vring flags 0x2"),
    (R.SET_VRING_BASE, VringState(0, 65536), "base 65536"),
    (R.SET_VRING_ENABLE, VringState(0, 2), "enable with 2"),
    (R.SET_STATUS, 256, "device status 0x100"),
    (R.SET_CONFIG, ConfigSpace(32, 2, b"\1"), "config flags 0x2"),
    (R.REM_MEM_REG, REGION, "no memory region at gpa 0x0"),
    (19, 0, "no such request"),
    (41, None, "no such request"),
    (2**32 - 1, None, "no such request"),
]


@pytest.mark.parametrize(("request_", "payload", "fault"), REFUSED)
def test_what_cannot_be_ends_a_session_that_asks_for_no_answer(
    caplog: pytest.LogCaptureFixture, request_: int, payload: Payload, fault: str
) -> None:
    async def scenario(client: Client, device: FakeDevice) -> None:
        await client.negotiate()
        await client.tell(request_, payload)

    line = ends_by(caplog, scenario)
    assert fault in line
    assert getattr(request_, "name", f"request {request_}") in line


@pytest.mark.parametrize(("request_", "payload", "fault"), REFUSED)
def test_what_cannot_be_is_answered_where_an_answer_is_asked_for(
    caplog: pytest.LogCaptureFixture, request_: int, payload: Payload, fault: str
) -> None:
    async def main() -> None:
        async with served(FakeDevice()) as session:
            await session.client.negotiate()
            await session.client.tell(request_, payload, need_reply=True)
            reply, _ = await session.client.reply_to(request_)
            assert reply == encode(1)
            await session.client.settle()

    caplog.set_level(logging.WARNING)
    with no_fd_left():
        asyncio.run(main())
    (record,) = caplog.records
    assert fault in record.getMessage()


def test_an_answer_is_given_only_once_answers_are_negotiated(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(client: Client, device: FakeDevice) -> None:
        await client.tell(R.SET_OWNER, need_reply=True)
        await client.settle()  # would find another reply first
        await client.tell(R.SET_VRING_NUM, VringState(9, 64), need_reply=True)

    assert "SET_VRING_NUM: queue index 9" in ends_by(caplog, scenario)


@pytest.mark.parametrize("request_", [R.GET_VRING_BASE, R.GET_INFLIGHT_FD])
def test_a_get_that_cannot_be_answered_ends_the_session(
    caplog: pytest.LogCaptureFixture, request_: FrontendRequest
) -> None:
    async def scenario(client: Client, device: FakeDevice) -> None:
        await client.negotiate()
        wrong = VringState(9, 0) if request_ is R.GET_VRING_BASE else InflightDescription(0, 0, 9, 64)
        await client.tell(request_, wrong, need_reply=True)

    assert request_.name in ends_by(caplog, scenario)


@pytest.mark.parametrize("request_", NEED_FEATURE)
def test_messages_of_features_that_were_not_negotiated(
    caplog: pytest.LogCaptureFixture, request_: FrontendRequest
) -> None:
    async def scenario(client: Client, device: FakeDevice) -> None:
        await client.negotiate(protocol_features=0)
        payload, fd_count = VALID[request_]
        with memory_fd() as fd:
            await client.tell(request_, payload, (fd,) * fd_count)

    assert f"{request_.name}: protocol feature" in ends_by(caplog, scenario)


def test_a_front_end_that_goes_while_its_ring_is_drained(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        device = FakeDevice()
        async with served(device) as session:
            client = session.client
            await client.negotiate()
            await client.set_up_ring()
            await client.tell(R.SET_VRING_ENABLE, VringState(0, 1))
            await client.settle()
            device.drained.clear()
            await client.tell(R.GET_VRING_BASE, VringState(0, 0))
            await client.tell(R.GET_FEATURES)  # unread, it must not hide the hang-up
            await device.stopping.wait()
            client.socket.close()
            await session.ended()
            assert device.gave_up
            assert device.names()[-1] == "reset"

    caplog.set_level(logging.WARNING)
    with no_fd_left():
        asyncio.run(main())
    assert not caplog.records


def test_a_session_that_is_cancelled_resets_the_device() -> None:
    async def main() -> None:
        device = FakeDevice()
        async with served(device) as session:
            await session.client.negotiate()
            await session.client.set_up_ring()
            await session.client.tell(R.SET_VRING_ENABLE, VringState(0, 1))
            await session.client.settle()
            device.drained.clear()
            await session.client.tell(R.GET_VRING_BASE, VringState(0, 0))
            await device.stopping.wait()
            session.serving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await session.serving
            assert device.gave_up
            assert device.names()[-1] == "reset"

    with no_fd_left():
        asyncio.run(main())


def test_front_ends_come_and_go() -> None:
    async def main() -> None:
        device = FakeDevice()
        for _ in range(200):
            ours, theirs = socket.socketpair()
            serving = asyncio.create_task(serve_session(theirs, device))
            client = Client(ours)
            await client.negotiate()
            with memory_fd() as memory, event_fd() as fd:
                await client.tell(R.ADD_MEM_REG, REGION, (memory,))
                await client.tell(R.SET_VRING_KICK, VringFd(1, True), (fd,))
            await client.settle()
            client.socket.close()
            await serving
        assert device.names().count("reset") == 200

    with no_fd_left():
        asyncio.run(main())
