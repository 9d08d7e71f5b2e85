"""What the front end says to a back end: the conversation as a scripted back end hears it."""

import array
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringblk import BackendGone, BackendRefused, Frontend
from ringblk.engine.devices.features import F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1
from ringblk.engine.vhost_user.codes import F_PROTOCOL_FEATURES, FrontendRequest, ProtocolFeature
from ringblk.engine.vhost_user.messages import (
    HEADER_BYTES,
    ConfigSpace,
    InflightDescription,
    Payload,
    VringAddress,
    VringState,
    decode_header,
    decode_request,
    encode_config,
    encode_inflight,
    encode_message,
    encode_u64,
    encode_vring_state,
)
from ringblk.shm.memory.region import MemoryRegion

F_LOG_ALL = 1 << 26  # which it does not want
OFFERED = F_VERSION_1 | F_PROTOCOL_FEATURES | F_EVENT_IDX | F_INDIRECT_DESC | F_LOG_ALL
ALL = ProtocolFeature(0x1FFFF)
INFLIGHT = InflightDescription(mmap_size_bytes=4096, mmap_offset_bytes=0, num_queues=2, queue_size=8)
FULL = 2**64 - 2  # what the counter of an eventfd holds at most (eventfd(2))
GUARD_S = 30
Heard = tuple[FrontendRequest, Payload]


class ScriptedBackend:
    """Listens, notes every message of one connection after the other, and answers as it should."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.features = OFFERED
        self.protocol_features = ALL
        self.refused: FrontendRequest | None = None
        self.silent: FrontendRequest | None = None
        self.heard: list[Heard] = []
        self.inodes: list[tuple[FrontendRequest, int]] = []
        self.inflight_fd = os.memfd_create("inflight")
        self.uninvited: FrontendRequest | None = None  # its reply comes with fds that nobody has asked for
        self.fills_kicks = self.makes_kicks_block = False
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(str(path))
        self.listening.listen()
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def close(self) -> None:
        self.listening.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listening.close()
        os.close(self.inflight_fd)

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            with connection:
                while self.hear_one(connection):
                    pass

    def hear_one(self, connection: socket.socket) -> bool:
        data, fds, _, _ = socket.recv_fds(connection, HEADER_BYTES, 8)
        if not data:
            return False
        header = decode_header(data)
        request = FrontendRequest(header.request)
        payload = decode_request(
            request, connection.recv(header.payload_bytes) if header.payload_bytes else b""
        )
        self.heard.append((request, payload))
        for fd in fds:
            self.inodes.append((request, os.fstat(fd).st_ino))
            if request == FrontendRequest.SET_VRING_KICK and self.fills_kicks:
                os.set_blocking(fd, False)
                with contextlib.suppress(BlockingIOError):  # full since the connection before
                    os.eventfd_write(fd, FULL)
                os.set_blocking(fd, self.makes_kicks_block)
            os.close(fd)
        if request == self.silent:
            return False
        reply = self.reply_to(request, payload)
        if reply is None and header.need_reply:
            reply = encode_u64(request == self.refused)
        if reply is not None:
            is_wanted = request == FrontendRequest.GET_INFLIGHT_FD
            rights = array.array("i", [self.inflight_fd] * (is_wanted + 7 * (request == self.uninvited)))
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else []
            connection.sendmsg([encode_message(request, reply, reply=True)], ancillary)
        return True

    def reply_to(self, request: FrontendRequest, payload: Payload) -> bytes | None:
        match request, payload:
            case FrontendRequest.GET_FEATURES, _:
                return encode_u64(self.features)
            case FrontendRequest.GET_PROTOCOL_FEATURES, _:
                return encode_u64(self.protocol_features)
            case FrontendRequest.GET_QUEUE_NUM, _:
                return encode_u64(2)
            case FrontendRequest.GET_CONFIG, ConfigSpace(offset_bytes, flags, data):
                return encode_config(ConfigSpace(offset_bytes, flags, b"\x08".ljust(len(data), b"\0")))
            case FrontendRequest.GET_INFLIGHT_FD, _:
                return encode_inflight(INFLIGHT)
            case FrontendRequest.GET_VRING_BASE, VringState(queue_index, _):
                return encode_vring_state(VringState(queue_index, 0))
        return None

    def requests(self) -> list[FrontendRequest]:
        return [request for request, _ in self.heard]

    def payloads(self, request: FrontendRequest) -> list[Payload]:
        return [payload for heard, payload in self.heard if heard == request]


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[ScriptedBackend]:
    scripted = ScriptedBackend(tmp_path / "socket")
    yield scripted
    scripted.close()


def test_the_whole_conversation(backend: ScriptedBackend) -> None:
    with Frontend(backend.path, num_queues=2, queue_size=8) as disk:
        assert disk.capacity_bytes == 8 * 512
        assert disk.features == F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC
    per_queue = ["SET_VRING_NUM", "SET_VRING_BASE", "SET_VRING_ADDR", "SET_VRING_CALL", "SET_VRING_KICK"]
    assert [request.name for request in backend.requests()] == [
        "SET_OWNER",
        "GET_FEATURES",
        "GET_PROTOCOL_FEATURES",
        "SET_PROTOCOL_FEATURES",
        "GET_QUEUE_NUM",
        "SET_FEATURES",
        "GET_CONFIG",
        "ADD_MEM_REG",
        "GET_INFLIGHT_FD",
        "SET_INFLIGHT_FD",
        *per_queue,
        *per_queue,
        *["SET_VRING_ENABLE"] * 2,
        *["GET_VRING_BASE"] * 2,
    ]
    assert backend.payloads(FrontendRequest.SET_FEATURES) == [OFFERED & ~F_LOG_ALL]
    assert backend.payloads(FrontendRequest.SET_VRING_NUM) == [VringState(0, 8), VringState(1, 8)]
    (region,) = backend.payloads(FrontendRequest.ADD_MEM_REG)
    assert isinstance(region, MemoryRegion)
    addresses = backend.payloads(FrontendRequest.SET_VRING_ADDR)
    assert len(addresses) == 2
    for address in addresses:
        assert isinstance(address, VringAddress)
        for uva in (address.desc_uva, address.avail_uva, address.used_uva):
            assert region.uva <= uva < region.uva + region.size_bytes


def test_a_back_end_of_few_words_gets_a_memory_table(backend: ScriptedBackend) -> None:
    backend.protocol_features = ProtocolFeature.CONFIG
    with Frontend(backend.path, indirect=False, event_idx=False) as disk:
        assert disk.features == F_VERSION_1
    assert FrontendRequest.SET_MEM_TABLE in backend.requests()
    for request in ("ADD_MEM_REG", "GET_QUEUE_NUM", "GET_INFLIGHT_FD"):
        assert FrontendRequest[request] not in backend.requests()


def test_a_new_back_end_gets_the_same_memory_and_in_flight_region(backend: ScriptedBackend) -> None:
    with Frontend(backend.path, num_queues=2, queue_size=8) as disk:
        first = list(backend.heard)
        backend.heard.clear()
        disk.submit_flush()
        disk.reconnect()
        assert disk.inflight_count() == 1
        again = [heard for heard in first if heard[0] != FrontendRequest.GET_INFLIGHT_FD]
        assert backend.heard == again
        assert backend.payloads(FrontendRequest.SET_INFLIGHT_FD) == [INFLIGHT]
    inflight_inode = os.fstat(backend.inflight_fd).st_ino
    for request in (FrontendRequest.ADD_MEM_REG, FrontendRequest.SET_INFLIGHT_FD):
        inodes = [inode for heard, inode in backend.inodes if heard == request]
        assert len(inodes) == 2
        assert len(set(inodes)) == 1
        assert (inodes[0] == inflight_inode) == (request == FrontendRequest.SET_INFLIGHT_FD)


def test_a_new_back_end_with_fewer_features_is_refused(backend: ScriptedBackend) -> None:
    with Frontend(backend.path) as disk:
        backend.features = OFFERED & ~F_EVENT_IDX
        with pytest.raises(BackendRefused, match="lacks features"):
            disk.reconnect()
        backend.features = OFFERED
        disk.reconnect()


@pytest.mark.parametrize(
    ("features", "message"), [(F_PROTOCOL_FEATURES, "VERSION_1"), (F_VERSION_1, "protocol features")]
)
def test_a_back_end_that_lacks_what_is_needed_is_refused(
    backend: ScriptedBackend, features: int, message: str
) -> None:
    backend.features = features
    with pytest.raises(BackendRefused, match=message):
        Frontend(backend.path)


@pytest.mark.parametrize(
    "request_name", ["SET_FEATURES", "ADD_MEM_REG", "SET_INFLIGHT_FD", "SET_VRING_ADDR", "SET_VRING_ENABLE"]
)
def test_refusal_and_silence_leave_nothing_open(backend: ScriptedBackend, request_name: str) -> None:
    fd_count = len(os.listdir("/proc/self/fd"))
    backend.refused = FrontendRequest[request_name]
    with pytest.raises(BackendRefused, match=f"{request_name} with code 1"):
        Frontend(backend.path)
    backend.refused, backend.silent = None, FrontendRequest[request_name]
    with pytest.raises(BackendGone):
        Frontend(backend.path)
    backend.silent = None
    Frontend(backend.path).close()  # the script has closed its end of the others by now
    while len(os.listdir("/proc/self/fd")) > fd_count and backend.thread.is_alive():
        os.sched_yield()
    assert len(os.listdir("/proc/self/fd")) == fd_count


@pytest.mark.parametrize(
    "request_name", ["GET_FEATURES", "GET_QUEUE_NUM", "GET_CONFIG", "GET_VRING_BASE", "SET_VRING_ENABLE"]
)
def test_fds_that_nobody_asked_for_are_closed(backend: ScriptedBackend, request_name: str) -> None:
    Frontend(backend.path).close()
    with Frontend(backend.path) as disk:
        fd_count = len(os.listdir("/proc/self/fd"))
        backend.uninvited = FrontendRequest[request_name]
        connection = disk._session.connection
        questions: dict[str, Callable[[], object]] = {
            "GET_FEATURES": connection.get_features,
            "GET_QUEUE_NUM": connection.get_queue_num,
            "GET_CONFIG": disk.refresh_config,
            "GET_VRING_BASE": lambda: connection.get_vring_base(0),
            "SET_VRING_ENABLE": lambda: connection.set_vring_enable(0, True),
        }
        for _ in range(3):
            questions[request_name]()
        assert len(os.listdir("/proc/self/fd")) == fd_count


@pytest.fixture
def guard() -> Iterator[None]:
    """End a system call that holds the whole process: a signal interrupts it, a thread would not run."""

    def end(number: int, frame: object) -> None:
        raise AssertionError(f"still in it after {GUARD_S} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(GUARD_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("guard")
@pytest.mark.parametrize("is_blocking", [False, True])
def test_a_kick_whose_counter_is_full_is_left_out(backend: ScriptedBackend, is_blocking: bool) -> None:
    """Blocking or not: a kick waits there already, and the read runs out of time."""
    backend.fills_kicks, backend.makes_kicks_block = True, is_blocking
    with Frontend(backend.path, request_timeout_s=0.05) as disk:
        with pytest.raises(TimeoutError):
            disk.read(0, 512)
        disk.reconnect()
        with pytest.raises(TimeoutError):
            disk.read(0, 512)


@pytest.mark.usefixtures("guard")
def test_calls_that_the_back_end_has_read_first_are_not_waited_for(backend: ScriptedBackend) -> None:
    """Between the look at the call eventfd and its reading the back end empties it and makes it block."""
    with Frontend(backend.path) as disk:
        queue = disk._queues[0]
        os.set_blocking(queue.call_fd, True)
        queue.reset_calls()
        os.eventfd_write(queue.call_fd, 3)
        queue.reset_calls()
        os.set_blocking(queue.call_fd, False)
        with pytest.raises(BlockingIOError):
            os.eventfd_read(queue.call_fd)
