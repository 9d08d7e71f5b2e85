"""The front end's side of the vhost-user conversation: one message out, one reply back, in order.

Source: QEMU, docs/interop/vhost-user.rst. Blocking, with a limit on how long a reply may take: it is the
control plane, and nothing per request goes this way.
"""

import array
import contextlib
import math
import os
import socket
import threading
import time
from collections.abc import Iterator

from ringblk.engine.frontend.request import BackendGone, BackendRefused
from ringblk.engine.vhost_user.codes import FrontendRequest, ProtocolFeature
from ringblk.engine.vhost_user.messages import (
    HEADER_BYTES,
    MAX_FD_COUNT,
    BadMessage,
    ConfigSpace,
    InflightDescription,
    Payload,
    VringAddress,
    VringFd,
    VringState,
    decode_header,
    decode_reply,
    encode_config,
    encode_inflight,
    encode_message,
    encode_region_table,
    encode_single_region,
    encode_u64,
    encode_vring_address,
    encode_vring_fd,
    encode_vring_state,
)
from ringblk.shm.memory.region import MemoryRegion
from ringblk.shm.platform.socket_options import CLOSE_ON_EXEC, NO_SIGNAL, close_on_exec

_FD_BYTES = array.array("i").itemsize


class FrontendConnection:
    """A conversation with a back end over a connected unix socket, which it owns from then on.

    Every method that talks raises BackendGone when the back end has gone or gives no answer in time,
    BackendRefused when it answers that it will not, and BadMessage when its answer is none. Threads may talk
    side by side: one message and its reply at a time.
    """

    def __init__(self, connected: socket.socket, reply_timeout_s: float = 30.0) -> None:
        connected.settimeout(reply_timeout_s)
        self.socket = connected
        self.protocol_features = ProtocolFeature(0)
        self._reply_timeout_s = reply_timeout_s
        self._deadline_s = math.inf
        self._lock = threading.RLock()

    def close(self) -> None:
        """End the conversation. May be called again."""
        self.socket.close()

    @contextlib.contextmanager
    def within(self, deadline_s: float) -> Iterator[None]:
        """Have all that is said in this block done by a time of the monotonic clock: TimeoutError if not.

        The conversation is over then, as it is after BackendGone: the answer may still come.
        """
        wait_s = min(deadline_s - time.monotonic(), threading.TIMEOUT_MAX)
        if not self._lock.acquire(timeout=max(0.0, wait_s)):
            raise TimeoutError("another thread waits for the back end")
        former_s, self._deadline_s = self._deadline_s, deadline_s
        try:
            yield
        except (BackendGone, TimeoutError):
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
            raise
        finally:
            self._deadline_s = former_s
            self._lock.release()

    # The messages.

    def set_owner(self) -> None:
        """Begin the session."""
        self.command(FrontendRequest.SET_OWNER)

    def get_features(self) -> int:
        """The virtio features that the back end offers, bit 30 among them."""
        return self._query_u64(FrontendRequest.GET_FEATURES)

    def set_features(self, features: int) -> None:
        """Take these virtio features."""
        self.command(FrontendRequest.SET_FEATURES, encode_u64(features))

    def negotiate_protocol_features(self, wanted: ProtocolFeature) -> None:
        """Take what is wanted and offered. Only where the back end offered virtio feature bit 30."""
        offered = self._query_u64(FrontendRequest.GET_PROTOCOL_FEATURES)
        accepted = ProtocolFeature(wanted & offered)
        self.command(FrontendRequest.SET_PROTOCOL_FEATURES, encode_u64(accepted))
        self.protocol_features = accepted

    def get_queue_num(self) -> int:
        """How many queues the back end can have; 1 where it cannot be asked."""
        if ProtocolFeature.MQ not in self.protocol_features:
            return 1
        return self._query_u64(FrontendRequest.GET_QUEUE_NUM)

    def get_max_mem_slots(self) -> int:
        """How many memory regions the back end can have at a time."""
        return self._query_u64(FrontendRequest.GET_MAX_MEM_SLOTS)

    def get_config(self, offset_bytes: int, size_bytes: int) -> bytes:
        """Bytes of the config space."""
        asked = encode_config(ConfigSpace(offset_bytes, 0, bytes(size_bytes)))
        try:
            reply = self._query(FrontendRequest.GET_CONFIG, asked)
        except BadMessage as error:
            raise BackendRefused(f"GET_CONFIG of {size_bytes} bytes: {error}") from error
        assert isinstance(reply, ConfigSpace)
        return reply.data

    def set_config(self, offset_bytes: int, data: bytes) -> None:
        """Write to the config space, as far as the driver may."""
        self.command(FrontendRequest.SET_CONFIG, encode_config(ConfigSpace(offset_bytes, 0, data)))

    def set_mem_table(self, regions: list[tuple[MemoryRegion, int]]) -> None:
        """Make these (region, fd) pairs all the memory that there is."""
        table = encode_region_table(tuple(region for region, _ in regions))
        self.command(FrontendRequest.SET_MEM_TABLE, table, tuple(fd for _, fd in regions))

    def add_region(self, region: MemoryRegion, fd: int) -> None:
        """Add one memory region."""
        self.command(FrontendRequest.ADD_MEM_REG, encode_single_region(region), (fd,))

    def remove_region(self, region: MemoryRegion) -> None:
        """Take one memory region away; when this returns and REPLY_ACK is on, nothing uses it any more."""
        self.command(FrontendRequest.REM_MEM_REG, encode_single_region(region))

    def set_vring_num(self, queue_index: int, queue_size: int) -> None:
        """Give a ring its size."""
        self.command(FrontendRequest.SET_VRING_NUM, encode_vring_state(VringState(queue_index, queue_size)))

    def set_vring_base(self, queue_index: int, next_avail: int) -> None:
        """Give a ring the avail index to begin at."""
        self.command(FrontendRequest.SET_VRING_BASE, encode_vring_state(VringState(queue_index, next_avail)))

    def get_vring_base(self, queue_index: int) -> int:
        """Stop a ring, which waits for what is in flight, and ask for its next avail index."""
        asked = encode_vring_state(VringState(queue_index, 0))
        reply = self._query(FrontendRequest.GET_VRING_BASE, asked)
        assert isinstance(reply, VringState)
        return reply.num

    def set_vring_address(self, address: VringAddress) -> None:
        """Say where a ring lies."""
        self.command(FrontendRequest.SET_VRING_ADDR, encode_vring_address(address))

    def set_vring_kick(self, queue_index: int, fd: int) -> None:
        """Hand over the eventfd by which the driver kicks; the ring starts with it."""
        self._set_vring_fd(FrontendRequest.SET_VRING_KICK, queue_index, fd)

    def set_vring_call(self, queue_index: int, fd: int) -> None:
        """Hand over the eventfd by which the device calls."""
        self._set_vring_fd(FrontendRequest.SET_VRING_CALL, queue_index, fd)

    def set_vring_enable(self, queue_index: int, enabled: bool) -> None:
        """Let a ring be served, or not."""
        self.command(FrontendRequest.SET_VRING_ENABLE, encode_vring_state(VringState(queue_index, enabled)))

    def get_inflight(self, num_queues: int, queue_size: int) -> tuple[InflightDescription, int]:
        """Ask for an in-flight region; its description and its fd, which is the caller's."""
        asked = encode_inflight(InflightDescription(0, 0, num_queues, queue_size))
        reply, fds = self._query_with_fds(FrontendRequest.GET_INFLIGHT_FD, asked)
        assert isinstance(reply, InflightDescription)
        if len(fds) != 1:
            _close_all(fds)
            raise BackendRefused(f"GET_INFLIGHT_FD came with {len(fds)} fds")
        return reply, fds[0]

    def set_inflight(self, description: InflightDescription, fd: int) -> None:
        """Hand an in-flight region to a back end."""
        self.command(FrontendRequest.SET_INFLIGHT_FD, encode_inflight(description), (fd,))

    def reset_device(self) -> None:
        """Put the device back to where it was before SET_FEATURES."""
        self.command(FrontendRequest.RESET_DEVICE)

    def _set_vring_fd(self, request: FrontendRequest, queue_index: int, fd: int) -> None:
        self.command(request, encode_vring_fd(VringFd(queue_index, True)), (fd,))

    # One message out, one back.

    def command(self, request: FrontendRequest, payload: bytes = b"", fds: tuple[int, ...] = ()) -> None:
        """Send a request that has no reply of its own; with REPLY_ACK, wait until it is done."""
        acknowledged = ProtocolFeature.REPLY_ACK in self.protocol_features
        with self._lock:
            self._send(encode_message(request, payload, need_reply=acknowledged), fds)
            code, reply_fds = self._receive_reply(request) if acknowledged else (0, [])
        if acknowledged:
            _close_all(reply_fds)
            if code != 0:
                raise BackendRefused(f"the back end answered {request.name} with code {code}")

    def _query(self, request: FrontendRequest, payload: bytes = b"") -> Payload:
        reply, fds = self._query_with_fds(request, payload)
        _close_all(fds)  # nobody has asked for any
        return reply

    def _query_with_fds(self, request: FrontendRequest, payload: bytes) -> tuple[Payload, list[int]]:
        with self._lock:
            self._send(encode_message(request, payload), ())
            return self._receive_reply(request)

    def _query_u64(self, request: FrontendRequest) -> int:
        reply = self._query(request)
        assert isinstance(reply, int)
        return reply

    def _send(self, message: bytes, fds: tuple[int, ...]) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._limit_wait()
            sent_bytes = self.socket.sendmsg([message], rights, NO_SIGNAL)
            self.socket.sendall(message[sent_bytes:])
        except OSError as error:
            self._raise_if_late()
            raise BackendGone(f"cannot send to the back end: {error}") from error

    def _limit_wait(self) -> None:
        left_s = self._deadline_s - time.monotonic()
        self.socket.settimeout(max(0.001, min(self._reply_timeout_s, left_s)))

    def _raise_if_late(self) -> None:
        if time.monotonic() >= self._deadline_s:
            raise TimeoutError("the back end does not answer in time")

    def _receive_reply(self, request: FrontendRequest) -> tuple[Payload, list[int]]:
        fds: list[int] = []
        try:
            header = decode_header(self._receive_exactly(HEADER_BYTES, fds))
            payload = self._receive_exactly(header.payload_bytes, fds)
            if header.request != request or not header.is_reply:
                raise BadMessage(f"{header.name} in place of a reply to {request.name}")
            return decode_reply(request, payload), fds
        except BaseException:
            _close_all(fds)
            raise

    def _receive_exactly(self, size_bytes: int, fds: list[int]) -> bytes:
        data = bytearray()
        while len(data) < size_bytes:
            try:
                self._limit_wait()
                fragment, ancillary, _, _ = self.socket.recvmsg(
                    size_bytes - len(data),
                    socket.CMSG_SPACE(MAX_FD_COUNT * _FD_BYTES),
                    CLOSE_ON_EXEC,
                )
            except OSError as error:
                self._raise_if_late()
                raise BackendGone(f"no reply from the back end: {error}") from error
            for level, kind, rights in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds.extend(array.array("i", rights[: len(rights) // _FD_BYTES * _FD_BYTES]))
            close_on_exec(fds)
            if not fragment:
                raise BackendGone("the back end closed the connection in place of a reply")
            data += fragment
        return bytes(data)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
