"""A front end that lies or is broken, against one real engine that has to survive all of it.

Fault model: a front end sends any bytes with any fds in any order, cuts its messages anywhere, and hangs up
whenever it likes. It has no memory of the engine and no way to signal it.

Every case is a whole dialogue as correct front ends have it (`DIALOGUE`), with one thing wrong. Between the
cases a front end that does everything right is served. In the end there are the processes of the beginning,
with no descriptor more, and a log that has not grown with the number of faults.
"""

import contextlib
import os
import random
import select
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from ringblk import BackendRefused
from ringblk.engine.devices.features import F_VERSION_1
from ringblk.engine.vhost_user.codes import F_PROTOCOL_FEATURES, FrontendRequest, ProtocolFeature
from ringblk.engine.vhost_user.messages import (
    ConfigSpace,
    InflightDescription,
    LogDescription,
    Payload,
    VringFd,
    VringState,
    encode_message,
)
from ringblk.shm.memory.region import MemoryRegion
from ringblk.shm.platform.form import LINUX
from ringblk.shm.queues.inflight_region import queue_region_bytes
from ringblk.workers.block.protocol import F_CONFIG_WCE, F_FLUSH
from tests.rigs.engine_rig import DEADLINE_S, Engine, EngineWithWorkers, eventually, raw_frontend
from tests.rigs.inline_device import IN, OK
from tests.rigs.vhost_user_client import encode, ring_address

R = FrontendRequest
MEMORY_BYTES = 0x10000
REGION = MemoryRegion(gpa=0, size_bytes=MEMORY_BYTES, uva=0x7F0000000000, mmap_offset_bytes=0)
INFLIGHT_BYTES = queue_region_bytes(64)
PROTOCOL = (
    ProtocolFeature.MQ
    | ProtocolFeature.REPLY_ACK
    | ProtocolFeature.BACKEND_REQ
    | ProtocolFeature.CONFIG
    | ProtocolFeature.INFLIGHT_SHMFD
    | ProtocolFeature.RESET_DEVICE
    | ProtocolFeature.LOG_SHMFD
    | ProtocolFeature.CONFIGURE_MEM_SLOTS
    | ProtocolFeature.STATUS
)
FEATURES = F_VERSION_1 | F_CONFIG_WCE | F_FLUSH | F_PROTOCOL_FEATURES

Message = tuple[FrontendRequest, Payload, str]
"""A request, its payload, and the kind of its fd, if it takes one."""

DIALOGUE: list[Message] = [
    (R.SET_OWNER, None, ""),
    (R.SET_PROTOCOL_FEATURES, int(PROTOCOL), ""),
    (R.GET_FEATURES, None, ""),
    (R.SET_FEATURES, FEATURES, ""),
    (R.GET_PROTOCOL_FEATURES, None, ""),
    (R.GET_QUEUE_NUM, None, ""),
    (R.GET_MAX_MEM_SLOTS, None, ""),
    (R.SET_BACKEND_REQ_FD, None, "socket"),
    (R.GET_CONFIG, ConfigSpace(0, 0, bytes(60)), ""),
    (R.GET_INFLIGHT_FD, InflightDescription(0, 0, 1, 64), ""),
    (R.SET_INFLIGHT_FD, InflightDescription(INFLIGHT_BYTES, 0, 1, 64), "memory"),
    (R.SET_LOG_BASE, LogDescription(4096, 0), "memory"),
    (R.SET_LOG_FD, None, "eventfd"),
    (R.ADD_MEM_REG, REGION, "memory"),
    (R.REM_MEM_REG, REGION, ""),
    (R.SET_MEM_TABLE, (REGION,), "memory"),
    (R.SET_VRING_NUM, VringState(0, 64), ""),
    (R.SET_VRING_BASE, VringState(0, 0), ""),
    (R.SET_VRING_ADDR, ring_address(), ""),
    (R.SET_VRING_CALL, VringFd(0, True), "eventfd"),
    (R.SET_VRING_ERR, VringFd(0, True), "eventfd"),
    (R.SET_VRING_KICK, VringFd(0, True), "eventfd"),
    (R.SET_VRING_ENABLE, VringState(0, 1), ""),
    (R.SET_STATUS, 15, ""),
    (R.GET_STATUS, None, ""),
    (R.SET_CONFIG, ConfigSpace(32, 0, b"\1"), ""),
    (R.GET_VRING_BASE, VringState(0, 0), ""),
    (R.RESET_OWNER, None, ""),
    (R.RESET_DEVICE, None, ""),
]
OF_OTHERS = {
    R.GET_SHMEM_CONFIG,
    R.GET_VRING_BASE_SKIP_DRAIN,
    R.SET_DEVICE_STATE_FD,
    R.CHECK_DEVICE_STATE,
}
"""Of shares and of guests that move: `test_share_window`, `test_suspended_queues`, `test_share_moves`."""
TAKE_AN_FD = [position for position, (_, _, kind) in enumerate(DIALOGUE) if kind]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """The engine that all of it happens to; what must hold in the end is looked at when it is taken down."""
    options = ["--backend=memory", "--backend-arg=size_bytes=1048576", "--num-queues=2", "--workers=1"]
    with EngineWithWorkers(*options) as engine:
        check_service(engine)
        engine.say_hello()
        children, fds = engine.children(), engine.open_fds()
        yield engine
        check_service(engine)
        assert engine.children() == children
        eventually(
            lambda: all(count <= fds[pid] for pid, count in engine.open_fds().items()), "no descriptor more"
        )
        assert len(engine.log().splitlines()) < 1000
        assert "Traceback" not in engine.log()
        assert engine.end() == 0


@pytest.fixture
def fds(tmp_path: Path) -> Iterator[dict[str, int]]:
    """An fd of every kind, right for some message or for none."""
    (tmp_path / "short").write_bytes(bytes(100))
    (tmp_path / "file").write_bytes(bytes(MEMORY_BYTES))
    with contextlib.ExitStack() as stack:
        pair = socket.socketpair()
        pipe, epoll = os.pipe(), stack.enter_context(select.epoll())
        found = {
            "memory": os.memfd_create("guest-ram"),
            "eventfd": os.eventfd(0),
            "socket": pair[0].detach(),
            "datagram socket": socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach(),
            "pipe": pipe[0],
            "write end of a pipe": pipe[1],
            "directory": os.open(tmp_path, os.O_RDONLY),
            "short file": os.open(tmp_path / "short", os.O_RDWR),
            "file to read": os.open(tmp_path / "file", os.O_RDONLY),
            "file to write": os.open(tmp_path / "file", os.O_WRONLY),
            "path only": os.open(tmp_path / "file", os.O_PATH),
            "device": os.open("/dev/null", os.O_RDWR),
            "epoll": os.dup(epoll.fileno()),
            "closed socket": closed_socket(),
        }
        stack.callback(pair[1].close)
        for fd in found.values():
            stack.callback(os.close, fd)
        os.ftruncate(found["memory"], MEMORY_BYTES)
        yield found


def closed_socket() -> int:
    ours, theirs = socket.socketpair()
    theirs.close()
    return ours.detach()


def check_service(engine: Engine) -> None:
    with raw_frontend(engine, num_queues=2) as frontend:
        for queue in frontend.queues:
            assert queue.request(IN, read_bytes=512)[0] == OK


Piece = tuple[bytes, Sequence[int]]


def pieces(fds: dict[str, int], messages: Iterable[Message] = DIALOGUE) -> list[Piece]:
    """The messages as bytes with their fds; each asks for an answer: a refusal does not end it all then."""
    return [
        (encode_message(request, encode(payload), need_reply=True), (fds[kind],) if kind else ())
        for request, payload, kind in messages
    ]


def converse(engine: Engine, sent: Iterable[Piece]) -> bytes:
    """Send all of it and hang up; what the engine has answered until it hung up in its turn."""
    with socket.socket(socket.AF_UNIX) as connected:
        connected.settimeout(DEADLINE_S)
        connected.connect(str(engine.socket_path))
        answer = bytearray()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for data, fds in sent:
                socket.send_fds(connected, [data], fds)
            connected.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while data := connected.recv(65536):
                answer += data
        return bytes(answer)


def codes(answer: bytes) -> list[tuple[int, int]]:
    """Request and number of each answer that is one number: an acknowledgement, for most."""
    found = []
    while answer:
        request, _, size_bytes = struct.unpack_from("=III", answer)
        if size_bytes == 8:
            found.append((request, struct.unpack_from("=Q", answer, 12)[0]))
        answer = answer[12 + size_bytes :]
    return found


def was_acknowledged(answer: bytes, request: FrontendRequest) -> bool:
    return (request, 0) in codes(answer)


def test_the_dialogue_is_a_right_one(engine: Engine, fds: dict[str, int]) -> None:
    """What the others spoil works as it is: all is acknowledged from the message on that asks for that."""
    assert {request for request, _, _ in DIALOGUE} == set(FrontendRequest) - OF_OTHERS
    acknowledged = dict(codes(converse(engine, pieces(fds))))
    setters = [request for request, _, _ in DIALOGUE[1:] if not request.name.startswith("GET_")]
    assert [request for request in setters if acknowledged[request] != 0] == []


@pytest.mark.parametrize("position", range(len(DIALOGUE)), ids=lambda position: DIALOGUE[position][0].name)
def test_a_message_that_is_cut_at_every_byte(engine: Engine, fds: dict[str, int], position: int) -> None:
    """And the front end gone after it; and the rest of it never sent, with the next message in its place."""
    before, (message, message_fds) = pieces(fds)[:position], pieces(fds)[position]
    for length in range(1, len(message)):
        converse(engine, [*before[:2], (message[:length], message_fds)])
    for length in (4, 8, 12, len(message) - 1):
        converse(engine, [*before, (message[:length], message_fds), *pieces(fds)])
    check_service(engine)


@pytest.mark.parametrize("position", range(len(DIALOGUE)), ids=lambda position: DIALOGUE[position][0].name)
def test_any_number_of_fds(engine: Engine, fds: dict[str, int], position: int) -> None:
    """One more or less than the message takes is none that it was acknowledged with."""
    request, _, kind = DIALOGUE[position]
    before, (message, _) = pieces(fds)[:position], pieces(fds)[position]
    right = 1 if kind else 0
    for count in (0, 1, 2, 7, 8, 9, 40):
        answer = converse(engine, [*before, (message, [fds[kind or "memory"]] * count)])
        if count != right and request is not R.REM_MEM_REG and not request.name.startswith("GET_"):
            assert not was_acknowledged(answer, request), count
    check_service(engine)


@pytest.mark.parametrize("position", TAKE_AN_FD, ids=lambda position: DIALOGUE[position][0].name)
def test_fds_of_every_kind(engine: Engine, fds: dict[str, int], position: int) -> None:
    """Only what can be what the message says is taken; everything else is refused, and closed."""
    request, _, right = DIALOGUE[position]
    sent = pieces(fds)
    as_good = {right}
    if right == "socket":
        as_good.add("closed socket")
    elif right == "eventfd" and not LINUX:
        as_good.add("pipe" if request == FrontendRequest.SET_VRING_KICK else "write end of a pipe")
    for kind, fd in fds.items():
        answer = converse(engine, [*sent[:position], (sent[position][0], [fd]), *sent[position + 1 :]])
        assert was_acknowledged(answer, request) == (kind in as_good), kind
    check_service(engine)


EXTREMES = [
    0,
    1,
    15,
    0x7FFF,
    0xFFFF,
    0x10000,
    1 << 31,
    (1 << 32) - 1,
    1 << 47,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
]
EXTREMES += [
    (1 << 64) - MEMORY_BYTES,
    (1 << 64) - 4096,
    MEMORY_BYTES - 1,
    MEMORY_BYTES + 1,
    REGION.uva,
    REGION.uva + 1,
]


@pytest.mark.parametrize("position", range(len(DIALOGUE)), ids=lambda position: DIALOGUE[position][0].name)
def test_numbers_that_overflow(engine: Engine, fds: dict[str, int], position: int) -> None:
    """Every field of every message takes the values at which sums and widths overflow."""
    sent = pieces(fds)
    message, message_fds = sent[position]
    for width_bytes in (8, 4, 2):
        for offset in range(4 if width_bytes == 4 else 12, len(message) - width_bytes + 1, width_bytes):
            for value in {extreme & ((1 << 8 * width_bytes) - 1) for extreme in EXTREMES}:
                field = value.to_bytes(width_bytes, "little")
                wrong = message[:offset] + field + message[offset + width_bytes :]
                converse(engine, [*sent[:position], (wrong, message_fds), *sent[position + 1 :]])
    check_service(engine)


def test_messages_in_any_order_and_number(engine: Engine, fds: dict[str, int]) -> None:
    """Repeated, left out, out of order, with each other's fds."""
    choice = random.Random(20261121)
    for _ in range(150):
        sent = pieces(fds)
        chosen = [*sent[:2]] if choice.random() < 0.8 else []
        for _ in range(choice.randrange(1, 60)):
            data, own_fds = choice.choice(sent)
            if choice.random() < 0.1:
                own_fds = [choice.choice(list(fds.values())) for _ in own_fds]
            chosen.append((data, own_fds))
        converse(engine, chosen)
    check_service(engine)


def test_rings_that_overlap_or_lie_outside(engine: Engine, fds: dict[str, int]) -> None:
    """A ring is refused when it is to start; each part of it in turn on another, or on another queue's."""
    right = ring_address()
    parts = {"desc_uva": right.desc_uva, "avail_uva": right.avail_uva, "used_uva": right.used_uva}
    end = REGION.uva + MEMORY_BYTES
    lying = [{name: other} for name in parts for other in parts.values() if other != parts[name]]
    lying += [{"avail_uva": right.desc_uva + 1022}, {"used_uva": right.avail_uva + 128}]
    lying += [{name: uva} for name in parts for uva in (end - 16, end, REGION.uva - 16, 0, (1 << 64) - 16)]
    for changes in lying:
        address = type(right)(**{**{n: getattr(right, n) for n in right.__struct_fields__}, **changes})
        messages = [
            (R.SET_VRING_ADDR, address, "") if each[0] is R.SET_VRING_ADDR else each for each in DIALOGUE
        ]
        answer = converse(engine, pieces(fds, messages))
        is_taken = was_acknowledged(answer, R.SET_VRING_ADDR)  # where it is not aligned, it is not
        assert not (is_taken and was_acknowledged(answer, R.SET_VRING_ENABLE)), changes
    check_service(engine)


def test_a_ring_that_overlaps_another_queue_s(engine: Engine) -> None:
    with raw_frontend(engine, num_queues=2) as frontend:
        first, second = frontend.queues
        frontend.connection.get_vring_base(1)
        second.driver.used_gpa = first.driver.used_gpa
        with pytest.raises(BackendRefused):
            frontend.start_queue(1)
        assert first.request(IN, read_bytes=512)[0] == OK
