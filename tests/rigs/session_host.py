"""A process that forks one process after the other to serve a kept session; run as a program.

It reports of each its pidfd, and then how it ended. Nobody is killed by a number that may be another's.
"""

import asyncio
import os
import socket
import sys
from typing import Any

import msgspec

from ringblk.engine.devices.features import F_EVENT_IDX, F_VERSION_1
from ringblk.engine.devices.vring import Vring
from ringblk.engine.vhost_user.message_socket import wait_readable
from ringblk.engine.vhost_user.session import Session
from ringblk.engine.vhost_user.session_keeper import KeptSession
from ringblk.shm.memory.region import MemoryRegion
from ringblk.shm.sync.channel import Channel
from tests.rigs.session_custody import Answer, DeviceState, KeepFds, KeepState, Kept, Live, Request

FDS_LEFT = 3
"""The exit status of a process that has descriptors left when its session is over."""


class KeptDevice:
    """A device that keeps its state with the session, and asks the custodian for each effect.

    It is the session's keeper, too: both stand in one state.
    """

    num_queues = 4
    max_mem_slots = 509
    window_bytes = 0
    moved_state = None
    device_features = F_VERSION_1 | F_EVENT_IDX
    is_keeping = True

    def __init__(self, end: socket.socket, state: DeviceState) -> None:
        self._channel: Channel[Answer] = Channel(end, Answer)
        self._state = state
        self.session: Session | None = None

    async def set_backend_channel(self, fd: int, *, is_legacy: bool) -> None:
        raise AssertionError("a device without a window has no use for it")

    def keep(self, fds: Any) -> list[int]:
        first = self._state.next_handle
        self._state.next_handle += len(fds)
        handles = list(range(first, self._state.next_handle))
        self._channel.send(KeepFds(handles), fds)
        return handles

    async def commit(self, state: KeptSession | None) -> None:
        self._channel.send(KeepState(Kept(state, self._state), state.handles() if state else []))
        assert not self._channel.has_unsent

    async def _ask(self, name: str, *arguments: Any, fds: tuple[int, ...] = ()) -> int:
        """Have an effect; these fds stay the caller's."""
        request_id = self._state.next_id
        self._state.next_id += 1
        self._channel.send(Request(request_id, name, list(arguments)), fds)
        while True:
            received = self._channel.receive()
            if received is None:
                await wait_readable(self._channel.socket.fileno())
            elif received[0].request_id == request_id:
                return received[0].value

    async def _hand_over(self, name: str, *arguments: Any, fds: tuple[int, ...]) -> None:
        try:
            await self._ask(name, *arguments, fds=fds)
        finally:
            for fd in fds:
                os.close(fd)

    def set_features(self, features: int) -> None:
        self._state.notes.append(("set_features", features))

    def read_config(self, offset_bytes: int, size_bytes: int) -> bytes:
        return bytes((offset_bytes + index) & 0xFF for index in range(size_bytes))

    def write_config(self, offset_bytes: int, data: bytes) -> None:
        self._state.notes.append(("write_config", [offset_bytes, data.hex()]))
        assert self.session is not None
        self.session.notify_config_change()

    async def add_region(self, region: MemoryRegion, fd: int) -> None:
        await self._hand_over("add_region", msgspec.structs.astuple(region), fds=(fd,))

    async def remove_region(self, region: MemoryRegion) -> None:
        await self._ask("remove_region", msgspec.structs.astuple(region))

    async def replace_regions(self, regions: list[tuple[MemoryRegion, int]]) -> None:
        table = [msgspec.structs.astuple(region) for region, _ in regions]
        await self._hand_over("replace_regions", table, fds=tuple(fd for _, fd in regions))

    async def start_queue(self, vring: Vring) -> None:
        await self._ask_of("start_queue", vring)

    async def update_fds(self, vring: Vring) -> None:
        await self._ask_of("update_fds", vring)

    async def set_queue_log(self, vring: Vring) -> None:
        await self._ask_of("set_queue_log", vring)

    async def _ask_of(self, name: str, vring: Vring) -> None:
        fds = [fd for fd in (vring.kick_fd, vring.call_fd, vring.err_fd) if fd is not None]
        plain = msgspec.structs.replace(vring, kick_fd=None, call_fd=None, err_fd=None)
        await self._ask(name, msgspec.structs.astuple(plain), fds=tuple(fds))

    async def set_enabled(self, queue_index: int, enabled: bool) -> None:
        await self._ask("set_enabled", queue_index, enabled)

    async def set_log(self, fd: int, mmap_size_bytes: int, mmap_offset_bytes: int) -> None:
        await self._hand_over("set_log", mmap_size_bytes, mmap_offset_bytes, fds=(fd,))

    async def set_logging(self, enabled: bool) -> None:
        await self._ask("set_logging", enabled)

    async def stop_queue(self, queue_index: int, *, is_suspended: bool = False) -> int:
        return await self._ask("stop_queue", queue_index)

    async def get_inflight(self, num_queues: int, queue_size: int) -> tuple[int, int, int]:
        value = await self._ask("get_inflight", num_queues, queue_size)
        fd = os.memfd_create("inflight")
        os.write(fd, str(value).encode())
        return fd, 8192, 4096

    async def set_inflight(
        self, fd: int, mmap_size_bytes: int, mmap_offset_bytes: int, num_queues: int, queue_size: int
    ) -> None:
        sizes = (mmap_size_bytes, mmap_offset_bytes, num_queues, queue_size)
        await self._hand_over("set_inflight", *sizes, fds=(fd,))

    async def reset(self) -> None:
        """What it does is the same however often it is done."""
        await self._ask("reset")

    def close(self) -> None:
        self._channel.close()


async def serve(end: socket.socket, live: Live, fds: list[int]) -> None:
    """Serve a session to its end."""
    kept = live.kept
    if kept is None:
        device = KeptDevice(end, DeviceState())
        device.session = Session(socket.socket(fileno=fds[0]), device, device)
    else:
        by_handle = dict(zip(live.handles, fds, strict=True))
        # Those that no state names yet have had their handles, too.
        kept.device.next_handle = max(kept.device.next_handle, *(handle + 1 for handle in live.handles))
        device = KeptDevice(end, kept.device)
        assert kept.session is not None
        assert set(kept.session.handles()) <= by_handle.keys()
        connected = socket.socket(fileno=by_handle.pop(kept.session.connection))
        device.session = Session.resume(connected, device, device, kept.session, by_handle)
        assert not set(kept.session.handles()) & by_handle.keys(), "the session has left what it is to own"
        for fd in by_handle.values():
            os.close(fd)
    await device.session.serve()
    device.close()


def be_served_by(live: Live, fds: list[int]) -> int:
    """The life of one process; its exit status."""
    given = {str(fd) for fd in fds}
    before = open_fds() - given
    asyncio.run(serve(socket.socket(fileno=fds[0]), live, fds[1:]))
    return 0 if open_fds() == before else FDS_LEFT


def open_fds() -> set[str]:
    """The descriptors of this process, without the one that looking takes."""
    return {name for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")}


def main(end: socket.socket) -> None:
    """Fork whom the channel asks for, until it is closed."""
    decoder = msgspec.msgpack.Decoder(Live)
    while True:
        data, fds, _, _ = socket.recv_fds(end, 1 << 17, 253)
        if not data:
            return
        pid = os.fork()
        if pid == 0:
            end.close()
            status = 1
            try:
                status = be_served_by(decoder.decode(data), fds)
            finally:
                sys.stderr.flush()
                os._exit(status)
        pidfd = os.pidfd_open(pid)
        socket.send_fds(end, [b"forked"], [pidfd])
        for fd in (*fds, pidfd):
            os.close(fd)
        end.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
