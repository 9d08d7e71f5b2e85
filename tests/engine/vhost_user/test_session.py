"""Dialogues that front ends really have, and what the device gets to hear of them."""

import os
import socket

import pytest

from ringblk.engine.devices.features import F_EVENT_IDX, F_VERSION_1
from ringblk.engine.vhost_user.codes import (
    F_LOG_ALL,
    F_PROTOCOL_FEATURES,
    FrontendRequest,
    ProtocolFeature,
)
from ringblk.engine.vhost_user.messages import (
    ConfigSpace,
    InflightDescription,
    LogDescription,
    Payload,
    VringFd,
    VringState,
    decode_inflight,
)
from ringblk.engine.vhost_user.session import PROTOCOL_FEATURES
from ringblk.shm.memory.region import MemoryRegion
from tests.rigs.fake_device import FakeDevice
from tests.rigs.vhost_user_client import (
    HIGH_REGION,
    REGION,
    Client,
    Served,
    event_fd,
    memory_fd,
    ring_address,
    run_session,
)

R = FrontendRequest


def test_libblkio_s_dialogue() -> None:
    async def scenario(session: Served, device: FakeDevice) -> None:
        client = session.client
        await client.tell(R.SET_OWNER)
        offered = await client.ask(R.GET_FEATURES)
        assert offered == F_VERSION_1 | F_EVENT_IDX | F_PROTOCOL_FEATURES | F_LOG_ALL
        await client.tell(R.SET_FEATURES, offered & ~F_LOG_ALL)
        assert await client.ask(R.GET_PROTOCOL_FEATURES) == PROTOCOL_FEATURES
        # It wants an answer to the very message that negotiates answers.
        taken = ProtocolFeature.MQ | ProtocolFeature.REPLY_ACK
        taken |= ProtocolFeature.CONFIG | ProtocolFeature.CONFIGURE_MEM_SLOTS
        assert await client.acked(R.SET_PROTOCOL_FEATURES, taken) == 0
        assert await client.ask(R.GET_QUEUE_NUM, need_reply=True) == 4
        assert await client.ask(R.GET_MAX_MEM_SLOTS, need_reply=True) == 509
        for _ in range(3):
            config = await client.ask(R.GET_CONFIG, ConfigSpace(0, 0, bytes(60)), need_reply=True)
            assert config == ConfigSpace(0, 0, bytes(range(60)))
        with memory_fd() as memory, event_fd() as kick, event_fd() as call:
            assert await client.acked(R.ADD_MEM_REG, REGION, (memory,)) == 0
            assert await client.acked(R.SET_VRING_NUM, VringState(0, 64)) == 0
            assert await client.acked(R.SET_VRING_BASE, VringState(0, 0)) == 0
            assert await client.acked(R.SET_VRING_ADDR, ring_address()) == 0
            assert await client.acked(R.SET_VRING_KICK, VringFd(0, True), (kick,)) == 0
            assert await client.acked(R.SET_VRING_CALL, VringFd(0, True), (call,)) == 0
            assert await client.acked(R.SET_VRING_ENABLE, VringState(0, 1)) == 0
            assert await client.acked(R.ADD_MEM_REG, HIGH_REGION, (memory,)) == 0

    device = run_session(scenario)
    assert device.names() == ["set_features", "add_region", "start_queue", "add_region", "reset"]
    vring = device.calls[2][1]
    address = ring_address()
    assert (vring.queue_index, vring.queue_size, vring.base) == (0, 64, 0)
    assert (vring.desc_uva, vring.avail_uva, vring.used_uva) == (
        address.desc_uva,
        address.avail_uva,
        address.used_uva,
    )
    assert None not in (vring.kick_fd, vring.call_fd)
    assert vring.err_fd is None


def test_qemu_s_dialogue_over_a_guest_s_reboot() -> None:
    async def start(client: Client, device: FakeDevice) -> None:
        await client.tell(R.SET_FEATURES, F_VERSION_1 | F_PROTOCOL_FEATURES)
        status = await client.ask(R.GET_STATUS)
        assert isinstance(status, int)
        await client.tell(R.SET_STATUS, status | 8)
        for queue_index in range(2):
            await client.set_up_ring(queue_index)
        for queue_index in range(2):
            assert await client.acked(R.SET_VRING_ENABLE, VringState(queue_index, 1)) == 0
        await client.tell(R.SET_STATUS, 15)
        assert await client.ask(R.GET_STATUS) == 15

    async def scenario(session: Served, device: FakeDevice) -> None:
        client = session.client
        await client.ask(R.GET_FEATURES)
        await client.ask(R.GET_PROTOCOL_FEATURES)
        await client.tell(R.SET_PROTOCOL_FEATURES, PROTOCOL_FEATURES)
        assert await client.ask(R.GET_QUEUE_NUM) == 4
        assert await client.ask(R.GET_MAX_MEM_SLOTS) == 509
        ours, theirs = socket.socketpair()
        with ours, theirs:
            assert await client.acked(R.SET_BACKEND_REQ_FD, None, (theirs.fileno(),)) == 0
        await client.tell(R.SET_OWNER)
        with memory_fd() as memory:
            assert await client.acked(R.ADD_MEM_REG, REGION, (memory,)) == 0
            assert await client.acked(R.ADD_MEM_REG, HIGH_REGION, (memory,)) == 0
        await start(client, device)
        for queue_index in range(2):
            await client.tell(R.SET_VRING_ENABLE, VringState(queue_index, 0))
            assert await client.ask(R.GET_VRING_BASE, VringState(queue_index, 0)) == VringState(
                queue_index, 7
            )
        await client.tell(R.SET_STATUS, 0)
        await start(client, device)

    device = run_session(scenario)
    assert device.names() == [
        *("add_region", "add_region"),
        *("set_features", "start_queue", "start_queue"),
        *("set_enabled", "stop_queue", "set_enabled", "stop_queue"),
        "set_features",  # the reset; memory stays, as it is not sent again
        *("set_features", "start_queue", "start_queue"),
        "reset",
    ]


def test_without_protocol_features_rings_are_enabled_from_the_start() -> None:
    async def scenario(session: Served, device: FakeDevice) -> None:
        client = session.client
        await client.tell(R.SET_OWNER)
        await client.tell(R.SET_FEATURES, F_VERSION_1)
        with memory_fd() as memory:
            await client.tell(R.SET_MEM_TABLE, (REGION, HIGH_REGION), (memory, memory))
        await client.set_up_ring()
        await client.settle()
        assert device.names() == ["set_features", "replace_regions", "start_queue", "update_fds"]
        assert device.calls[1][1] == [REGION, HIGH_REGION]

    run_session(scenario)


def test_a_ring_starts_with_the_last_piece_whatever_it_is() -> None:
    async def scenario(session: Served, device: FakeDevice) -> None:
        client = session.client
        await client.negotiate()
        pieces: list[tuple[FrontendRequest, Payload]] = [
            (R.SET_VRING_NUM, VringState(0, 64)),
            (R.SET_VRING_ADDR, ring_address()),
            (R.SET_VRING_KICK, VringFd(0, False)),
            (R.SET_VRING_ENABLE, VringState(0, 1)),
        ]
        for last in range(len(pieces)):
            for request, payload in pieces[last + 1 :] + pieces[:last]:
                assert await client.acked(request, payload) == 0
            assert "start_queue" not in device.names()
            assert await client.acked(*pieces[last]) == 0
            assert device.names()[-1] == "start_queue"
            await client.tell(R.RESET_DEVICE)
            await client.settle()
            device.calls.clear()

    run_session(scenario)


def test_a_stopped_ring_goes_on_from_its_base_with_a_new_kick() -> None:
    async def scenario(session: Served, device: FakeDevice) -> None:
        client = session.client
        await client.negotiate()
        await client.set_up_ring()
        assert await client.ask(R.GET_VRING_BASE, VringState(0, 0)) == VringState(0, 0)
        await client.tell(R.SET_VRING_BASE, VringState(0, 3))
        assert await client.ask(R.GET_VRING_BASE, VringState(0, 0)) == VringState(0, 3)
        await client.tell(R.SET_VRING_ENABLE, VringState(0, 1))
        await client.settle()
        assert "start_queue" not in device.names()
        await client.tell(R.SET_VRING_KICK, VringFd(0, False))
        assert await client.ask(R.GET_VRING_BASE, VringState(0, 0)) == VringState(0, 7)
        await client.tell(R.SET_VRING_KICK, VringFd(0, False))
        await client.settle()
        assert [call[1].base for call in device.calls if call[0] == "start_queue"] == [3, 7]

    run_session(scenario)


def test_fds_of_a_running_ring_are_replaced() -> None:
    async def scenario(session: Served, device: FakeDevice) -> None:
        client = session.client
        await client.negotiate()
        await client.set_up_ring()
        await client.tell(R.SET_VRING_ENABLE, VringState(0, 1))
        with event_fd() as fd:
            await client.tell(R.SET_VRING_ERR, VringFd(0, True), (fd,))
        await client.tell(R.SET_VRING_CALL, VringFd(0, False))
        await client.settle()
        first, second = (call[1] for call in device.calls if call[0] == "update_fds")
        assert first.err_fd is not None
        assert first.call_fd is not None
        assert second.call_fd is None
        assert second.err_fd == first.err_fd

    run_session(scenario)


def test_nothing_but_fds_changes_while_a_ring_runs() -> None:
    async def scenario(session: Served, device: FakeDevice) -> None:
        client = session.client
        await client.negotiate()
        await client.set_up_ring()
        await client.tell(R.SET_VRING_ENABLE, VringState(0, 1))
        assert await client.acked(R.SET_VRING_ADDR, ring_address(0)) == 0
        assert await client.acked(R.SET_VRING_NUM, VringState(0, 64)) != 0
        assert await client.acked(R.SET_VRING_BASE, VringState(0, 1)) != 0
        moved = ring_address(1)
        moved = type(moved)(0, 0, moved.desc_uva, moved.used_uva, moved.avail_uva)
        assert await client.acked(R.SET_VRING_ADDR, moved) != 0
        assert await client.acked(R.SET_FEATURES, F_EVENT_IDX | F_PROTOCOL_FEATURES) != 0
        assert await client.acked(R.SET_FEATURES, F_VERSION_1 | F_PROTOCOL_FEATURES) == 0

    run_session(scenario)


def test_memory_is_removed_by_address_and_size() -> None:
    async def scenario(session: Served, device: FakeDevice) -> None:
        client = session.client
        await client.negotiate()
        with memory_fd() as memory:
            await client.tell(R.ADD_MEM_REG, REGION, (memory,))
            without_offset = MemoryRegion(REGION.gpa, REGION.size_bytes, REGION.uva, 0)
            # One fd too many is to be put up with here, and closed.
            assert await client.acked(R.REM_MEM_REG, without_offset, (memory,)) == 0
            assert device.calls[-1] == ("remove_region", REGION)
            assert await client.acked(R.REM_MEM_REG, REGION) != 0
            overlapping = MemoryRegion(REGION.size_bytes - 1, 4096, 0, 0)
            assert await client.acked(R.ADD_MEM_REG, REGION, (memory,)) == 0
            assert await client.acked(R.ADD_MEM_REG, overlapping, (memory,)) != 0
            assert await client.acked(R.SET_MEM_TABLE, (REGION, overlapping), (memory, memory)) != 0
            assert await client.acked(R.SET_MEM_TABLE, (HIGH_REGION,), (memory,)) == 0
            assert await client.acked(R.REM_MEM_REG, HIGH_REGION) == 0

    run_session(scenario)


def test_memory_slots_are_as_many_as_promised() -> None:
    async def scenario(session: Served, device: FakeDevice) -> None:
        client = session.client
        await client.negotiate()
        slots = await client.ask(R.GET_MAX_MEM_SLOTS)
        assert isinstance(slots, int)
        with memory_fd() as memory:
            codes = [
                await client.acked(R.ADD_MEM_REG, MemoryRegion(slot << 20, 1 << 20, slot << 20, 0), (memory,))
                for slot in range(slots + 1)
            ]
        assert codes == [0] * slots + [1]

    run_session(scenario)


def test_the_inflight_region_goes_out_and_comes_in() -> None:
    async def scenario(session: Served, device: FakeDevice) -> None:
        client = session.client
        await client.negotiate()
        await client.tell(R.GET_INFLIGHT_FD, InflightDescription(0, 0, 2, 128), need_reply=True)
        payload, fds = await client.reply_to(R.GET_INFLIGHT_FD)
        assert len(payload) == 24  # QEMU takes no other size
        assert decode_inflight(payload) == InflightDescription(8192, 4096, 2, 128)
        (fd,) = fds
        assert await client.acked(R.SET_INFLIGHT_FD, decode_inflight(payload), (fd,)) == 0
        os.close(fd)
        assert device.calls[-2:] == [("get_inflight", 2, 128), ("set_inflight", 8192, 4096, 2, 128)]
        for wrong in (InflightDescription(1, 0, 5, 128), InflightDescription(1, 0, 1, 100)):
            with memory_fd() as fd:
                assert await client.acked(R.SET_INFLIGHT_FD, wrong, (fd,)) != 0

    run_session(scenario)


def test_reset_owner_disables_all_rings() -> None:
    async def scenario(session: Served, device: FakeDevice) -> None:
        client = session.client
        await client.negotiate()
        await client.set_up_ring()
        await client.tell(R.SET_VRING_ENABLE, VringState(0, 1))
        await client.tell(R.RESET_OWNER)
        await client.settle()
        assert device.calls[-1] == ("set_enabled", 0, False)

    run_session(scenario)


@pytest.mark.parametrize(
    ("refused", "request_", "payload"),
    [
        ("add_region", R.ADD_MEM_REG, REGION),
        ("replace_regions", R.SET_MEM_TABLE, (REGION,)),
        ("set_inflight", R.SET_INFLIGHT_FD, InflightDescription(4096, 0, 1, 64)),
        ("set_features", R.SET_FEATURES, F_VERSION_1),
        ("set_log", R.SET_LOG_BASE, LogDescription(4096, 0)),
        ("set_logging", R.SET_FEATURES, F_VERSION_1 | F_LOG_ALL),
        ("start_queue", R.SET_VRING_ENABLE, VringState(0, 1)),
    ],
)
def test_what_the_device_refuses_is_answered_honestly(
    refused: str, request_: FrontendRequest, payload: Payload
) -> None:
    async def scenario(session: Served, device: FakeDevice) -> None:
        client = session.client
        await client.negotiate()
        await client.set_up_ring()
        await client.settle()
        device.refuse.add(refused)
        with memory_fd() as memory:
            takes_fd = refused in ("add_region", "replace_regions", "set_inflight", "set_log")
            assert await client.acked(request_, payload, (memory,) if takes_fd else ()) != 0
            device.refuse.clear()
            assert await client.acked(request_, payload, (memory,) if takes_fd else ()) == 0

    run_session(scenario)


def test_a_stopped_ring_gives_up_its_kick_fd() -> None:
    async def scenario(session: Served, device: FakeDevice) -> None:
        client = session.client
        await client.negotiate()
        await client.settle()
        fd_count = len(os.listdir("/proc/self/fd"))
        await client.set_up_ring()
        await client.settle()
        assert len(os.listdir("/proc/self/fd")) == fd_count + 2
        await client.ask(R.GET_VRING_BASE, VringState(0, 0))
        assert len(os.listdir("/proc/self/fd")) == fd_count + 1

    run_session(scenario)
