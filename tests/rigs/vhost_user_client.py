"""A scripted front end, and a session to talk to, for tests."""

import asyncio
import contextlib
import gc
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from ringblk.engine.devices.features import F_VERSION_1
from ringblk.engine.vhost_user.codes import F_PROTOCOL_FEATURES, FrontendRequest
from ringblk.engine.vhost_user.message_socket import VhostUserSocket
from ringblk.engine.vhost_user.messages import (
    ConfigSpace,
    InflightDescription,
    LogDescription,
    Payload,
    StateDescription,
    VringAddress,
    VringFd,
    VringState,
    decode_reply,
    encode_config,
    encode_inflight,
    encode_log,
    encode_message,
    encode_region_table,
    encode_single_region,
    encode_u64,
    encode_vring_address,
    encode_vring_fd,
    encode_vring_state,
)
from ringblk.engine.vhost_user.session import PROTOCOL_FEATURES, Session
from ringblk.shm.memory.region import MemoryRegion
from tests.rigs.fake_device import FakeDevice

WAIT_SECONDS = 20  # how long anything may take before a test fails; nothing waits for it to pass
REGION = MemoryRegion(gpa=0, size_bytes=0x10000, uva=0x7F0000000000, mmap_offset_bytes=0x1000)
HIGH_REGION = MemoryRegion(gpa=1 << 32, size_bytes=0x10000, uva=0x7F8000000000, mmap_offset_bytes=0)


def encode(payload: Payload) -> bytes:
    """The payload as its type says; a MemoryRegion is a single one."""
    match payload:
        case None:
            return b""
        case int():
            return encode_u64(payload)
        case VringState():
            return encode_vring_state(payload)
        case VringAddress():
            return encode_vring_address(payload)
        case VringFd():
            return encode_vring_fd(payload)
        case ConfigSpace():
            return encode_config(payload)
        case InflightDescription():
            return encode_inflight(payload)
        case StateDescription():
            return encode_vring_state(VringState(payload.direction, payload.phase))
        case LogDescription():
            return encode_log(payload)
        case MemoryRegion():
            return encode_single_region(payload)
        case tuple():
            return encode_region_table(payload)


class Client:
    """A front end's end of the connection."""

    def __init__(self, connected_socket: socket.socket) -> None:
        self.raw = connected_socket
        self.socket = VhostUserSocket(connected_socket)

    async def tell(
        self,
        request: int,
        payload: Payload = None,
        fds: tuple[int, ...] = (),
        *,
        need_reply: bool = False,
    ) -> None:
        """Send a request."""
        await self.socket.send(encode_message(request, encode(payload), need_reply=need_reply), fds)

    async def reply_to(self, request: int) -> tuple[bytes, list[int]]:
        """The next message, which must be a reply to `request`: payload and fds."""
        async with asyncio.timeout(WAIT_SECONDS):
            message = await self.socket.receive()
        assert message is not None, "the session has ended"
        assert message.header.is_reply
        assert not message.header.need_reply
        assert message.header.request == request
        return message.payload, message.fds.take()

    async def ask(
        self,
        request: FrontendRequest,
        payload: Payload = None,
        fds: tuple[int, ...] = (),
        *,
        need_reply: bool = False,
    ) -> Payload:
        """Send a request that has an answer, or asks for one; the answer."""
        await self.tell(request, payload, fds, need_reply=need_reply)
        reply, reply_fds = await self.reply_to(request)
        assert not reply_fds
        return decode_reply(request, reply)

    async def acked(
        self, request: FrontendRequest, payload: Payload = None, fds: tuple[int, ...] = ()
    ) -> int:
        """Send a request with NEED_REPLY; the code that it is answered with."""
        code = await self.ask(request, payload, fds, need_reply=True)
        assert isinstance(code, int)
        return code

    async def negotiate(self, protocol_features: int = PROTOCOL_FEATURES) -> None:
        """Begin as every front end does."""
        await self.tell(FrontendRequest.SET_OWNER)
        await self.tell(FrontendRequest.SET_FEATURES, F_VERSION_1 | F_PROTOCOL_FEATURES)
        await self.tell(FrontendRequest.SET_PROTOCOL_FEATURES, protocol_features)

    async def set_up_ring(self, queue_index: int = 0, queue_size: int = 128) -> None:
        """Give all that a ring needs, except for enabling it."""
        await self.tell(FrontendRequest.SET_VRING_NUM, VringState(queue_index, queue_size))
        await self.tell(FrontendRequest.SET_VRING_BASE, VringState(queue_index, 0))
        await self.tell(FrontendRequest.SET_VRING_ADDR, ring_address(queue_index))
        with event_fd() as fd:
            await self.tell(FrontendRequest.SET_VRING_KICK, VringFd(queue_index, True), (fd,))
            await self.tell(FrontendRequest.SET_VRING_CALL, VringFd(queue_index, True), (fd,))

    async def settle(self) -> None:
        """Return when all that was sent before has been handled."""
        await self.ask(FrontendRequest.GET_FEATURES)


class Served:
    """A session that is being served, and the front end at its other end."""

    def __init__(self, client: Client, session: Session, serving: "asyncio.Task[None]") -> None:
        self.client = client
        self.session = session
        self.serving = serving

    async def ended(self) -> None:
        """Wait until the session has ended by itself."""
        async with asyncio.timeout(WAIT_SECONDS):
            await self.serving


@contextlib.asynccontextmanager
async def served(device: FakeDevice) -> AsyncIterator[Served]:
    """A session over `device`; at the end the front end hangs up and the session must end."""
    frontend_end, backend_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    client = Client(frontend_end)
    session = Session(backend_end, device)
    serving = asyncio.create_task(session.serve())
    try:
        yield Served(client, session, serving)
    finally:
        client.socket.close()
        async with asyncio.timeout(WAIT_SECONDS):
            await asyncio.wait({serving})
    if not serving.cancelled():
        serving.result()


def ring_address(queue_index: int = 0) -> VringAddress:
    """Addresses of a ring, aligned as they must be."""
    uva = REGION.uva + queue_index * 0x2000
    return VringAddress(
        queue_index, 0, desc_uva=uva, avail_uva=uva + 0x1000, used_uva=uva + 0x1804, log_gpa=0x1804
    )


@contextlib.contextmanager
def event_fd() -> Iterator[int]:
    """An eventfd of the front end's own."""
    fd = os.eventfd(0)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def memory_fd() -> Iterator[int]:
    """An fd that stands for guest memory."""
    fd = os.memfd_create("memory")
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def no_fd_left() -> Iterator[None]:
    """Assert that the block leaves exactly the fds that there were."""
    gc.collect()  # or what earlier tests left would be closed meanwhile
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) == before


def run_session(scenario: Callable[[Served, FakeDevice], Awaitable[None]]) -> FakeDevice:
    """Run `scenario(served session, device)` on a session of its own; it must leave no fd."""

    async def main() -> FakeDevice:
        device = FakeDevice()
        async with served(device) as session:
            await scenario(session, device)
        assert device.names()[-1] == "reset"
        return device

    with no_fd_left():
        return asyncio.run(main())
