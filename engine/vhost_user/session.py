"""One front end's vhost-user session, from its first message to its last, over any device.

A message that breaks the protocol ends the session with one log line. A message that is well formed but asks
for what cannot be done is answered with a failure where the front end waits for an answer (REPLY_ACK), and
ends the session otherwise, since the front end would go on as if it had been done.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import msgspec

from ringblk.engine.devices.device import ConfigRefused, Device, DeviceError
from ringblk.engine.devices.vring import Vring, close_fd
from ringblk.engine.vhost_user.backend_channel import BackendChannel
from ringblk.engine.vhost_user.codes import F_LOG_ALL, F_PROTOCOL_FEATURES, FrontendRequest, ProtocolFeature
from ringblk.engine.vhost_user.message_socket import FdSet, ReceivedMessage, VhostUserSocket
from ringblk.engine.vhost_user.messages import (
    BadMessage,
    ConfigSpace,
    Header,
    InflightDescription,
    LogDescription,
    VringState,
    decode_request,
    encode_config,
    encode_inflight,
    encode_message,
    encode_u64,
    encode_vring_state,
)
from ringblk.engine.vhost_user.region_table import RegionTable
from ringblk.engine.vhost_user.request_rules import NEEDED_FEATURE, OWN_REPLY, expected_fd_counts
from ringblk.engine.vhost_user.vring_table import VringTable
from ringblk.shm.layout.sizes import queue_size_fault
from ringblk.shm.sync.process import crash_point

__all__ = ["PROTOCOL_FEATURES", "ConfigRefused", "Device", "DeviceError", "Session", "Vring", "serve_session"]

PROTOCOL_FEATURES = (
    ProtocolFeature.MQ
    | ProtocolFeature.LOG_SHMFD
    | ProtocolFeature.REPLY_ACK
    | ProtocolFeature.BACKEND_REQ
    | ProtocolFeature.CONFIG
    | ProtocolFeature.INFLIGHT_SHMFD
    | ProtocolFeature.RESET_DEVICE
    | ProtocolFeature.CONFIGURE_MEM_SLOTS
    | ProtocolFeature.STATUS
)
"""What a session offers of the protocol."""
SESSION_FEATURES = F_PROTOCOL_FEATURES | F_LOG_ALL
"""The features that are the session's own, whatever the device is."""

_ACK_SUCCESS = 0
_ACK_FAILURE = 1
_MAX_STATUS = 0xFF

_log = logging.getLogger(__name__)


class Reply(msgspec.Struct, frozen=True):
    """A message's own answer. Its fd is closed once it is sent."""

    payload: bytes
    fd: int | None = None


class Session:
    """Serves one connected front end; a new one is made for the next."""

    def __init__(self, connected_socket: socket.socket, device: Device) -> None:
        self._connection = VhostUserSocket(connected_socket)
        self._device = device
        self._rings = VringTable(device)
        self._regions = RegionTable(device)
        self._channel: BackendChannel | None = None
        self._features = 0
        self._protocol_features = ProtocolFeature(0)
        self._status = 0
        self._has_ended = False

    async def serve(self) -> None:
        """Serve until the front end is gone or breaks the protocol, then reset the device.

        Owns the socket and closes it. Raises nothing that a front end can cause.
        """
        hang_up = asyncio.ensure_future(self._connection.wait_hang_up())
        try:
            while (message := await self._connection.receive()) is not None:
                with message.fds:
                    if not await self._handle_unless(hang_up, message):
                        break
            if not self._has_ended:
                _log.info("the front end has disconnected")
        except BadMessage as error:
            if not getattr(error.__cause__, "is_told", False):
                _log.error("the vhost-user session ends: %s", error)
        except ConnectionError as error:
            _log.info("the front end has disconnected: %s", error)
        except OSError as error:  # no memory, no descriptors: what there is goes back with the session
            _log.error("the vhost-user session ends: %s", error)
        finally:
            hang_up.cancel()
            await asyncio.wait({hang_up})
            await self._close()

    def end(self, reason: str) -> None:
        """End the session, whatever it waits for. May be called again."""
        if not self._has_ended:
            self._has_ended = True
            _log.error("the vhost-user session ends: %s", reason)
            self._connection.shut_down()

    @property
    def has_front_end(self) -> bool:
        """Whether the front end is there still, and will want to go on."""
        return not self._connection.has_hung_up

    @property
    def stalled_s(self) -> float:
        """For how long the front end has owed us something (see `VhostUserSocket.stalled_s`)."""
        return self._connection.stalled_s

    def notify_config_change(self) -> bool:
        """Tell the front end that the config space has changed. False where it cannot be told.

        Returns at once; the message goes out when the front end takes it.
        """
        if self._channel is None or ProtocolFeature.CONFIG not in self._protocol_features:
            return False
        self._channel.notify_config_change()
        return True

    async def _close(self) -> None:
        crash_point("session: over")
        try:
            await self._device.reset()
            crash_point("session: device reset")
        finally:
            self._rings.close()
            self._connection.close()
            if self._channel is not None:
                await self._channel.close()

    async def _handle_unless(self, hang_up: "asyncio.Future[None]", message: ReceivedMessage) -> bool:
        """Handle a message, however long that takes; given up, with False, when the front end is gone."""
        handling = asyncio.ensure_future(self._handle(message))
        try:
            await asyncio.wait({handling, hang_up}, return_when=asyncio.FIRST_COMPLETED)
            if not handling.done():
                return False
            handling.result()
            return True
        finally:
            handling.cancel()
            await asyncio.wait({handling})
            if not handling.cancelled():
                handling.exception()  # seen, so that asyncio does not report it once more

    async def _handle(self, message: ReceivedMessage) -> None:
        code = _ACK_SUCCESS
        reply: Reply | None = None
        try:
            reply = await self._carry_out(message)
        except (ConfigRefused, DeviceError) as error:
            # A guest may cause the refusal of a config write, which is no reason to end its session.
            if isinstance(error, DeviceError) and not self._wants_ack(message.header):
                raise BadMessage(f"{message.header.name}: {error}") from error
            if not error.is_told:
                _log.warning("%s is refused: %s", message.header.name, error)
            code = _ACK_FAILURE
        crash_point("session: message carried out")
        if reply is None and self._wants_ack(message.header):
            reply = Reply(encode_u64(code))
        if reply is not None:
            await self._send_reply(message.header, reply)
            crash_point("session: reply sent")

    def _wants_ack(self, header: Header) -> bool:
        """Asked for after the message is carried out, so that the one that negotiates it counts already."""
        return (
            header.need_reply
            and header.request not in OWN_REPLY
            and ProtocolFeature.REPLY_ACK in self._protocol_features
        )

    async def _send_reply(self, header: Header, reply: Reply) -> None:
        try:
            fds = () if reply.fd is None else (reply.fd,)
            await self._connection.send(encode_message(header.request, reply.payload, reply=True), fds)
        finally:
            close_fd(reply.fd)

    async def _carry_out(self, message: ReceivedMessage) -> Reply | None:
        header = message.header
        if header.is_reply:
            raise BadMessage(f"{header.name}: a reply, though nothing was asked")
        try:
            request = FrontendRequest(header.request)
        except ValueError:
            raise DeviceError("no such request here") from None
        payload = decode_request(request, message.payload)
        fd_counts = expected_fd_counts(request, payload)
        if len(message.fds) not in fd_counts:
            expected = " or ".join(map(str, fd_counts))
            raise BadMessage(f"{request.name}: {len(message.fds)} fds, expected {expected}")
        needed_feature = NEEDED_FEATURE.get(request)
        if needed_feature is not None and needed_feature not in self._protocol_features:
            raise DeviceError(f"protocol feature {needed_feature.name} has not been negotiated")
        return await _HANDLERS[request](self, payload, message.fds)

    async def set_owner(self) -> None:
        """The session starts, which is known already."""

    async def get_features(self) -> Reply:
        """The device's features and the session's."""
        return Reply(encode_u64(self._device.device_features | SESSION_FEATURES))

    async def set_features(self, features: int) -> None:
        """Accept features; without protocol features all rings are enabled from here on ("Ring states")."""
        unknown = features & ~(self._device.device_features | SESSION_FEATURES)
        if unknown:
            raise DeviceError(f"features {unknown:#x} are not on offer")
        changed = features ^ self._features
        if self._rings.any_running and changed & ~F_LOG_ALL:
            raise DeviceError("features cannot change while a queue is running")
        if changed != F_LOG_ALL:
            self._device.set_features(features & ~SESSION_FEATURES)
        if changed & F_LOG_ALL:
            await self._device.set_logging(bool(features & F_LOG_ALL))
        self._features = features
        if not features & F_PROTOCOL_FEATURES:
            await self._rings.set_all_enabled(True)

    async def get_protocol_features(self) -> Reply:
        """What of the protocol is on offer."""
        return Reply(encode_u64(PROTOCOL_FEATURES))

    async def set_protocol_features(self, features: int) -> None:
        """Accept protocol features."""
        if features & ~PROTOCOL_FEATURES:
            raise DeviceError(f"protocol features {features & ~PROTOCOL_FEATURES:#x} are not on offer")
        self._protocol_features = ProtocolFeature(features)

    async def get_queue_num(self) -> Reply:
        """How many queues the device has."""
        return Reply(encode_u64(self._device.num_queues))

    async def get_max_mem_slots(self) -> Reply:
        """How many memory regions may be added."""
        return Reply(encode_u64(self._regions.slot_count))

    async def get_vring_base(self, state: VringState) -> Reply:
        """Stop a ring and say where it stands."""
        return Reply(encode_vring_state(await self._rings.get_base(state)))

    async def get_config(self, wanted: ConfigSpace) -> Reply:
        """Part of the config space, or an empty reply where it cannot be had."""
        try:
            data = self._device.read_config(wanted.offset_bytes, len(wanted.data))
        except ConfigRefused as error:
            _log.warning("GET_CONFIG is refused: %s", error)
            return Reply(b"")
        return Reply(encode_config(ConfigSpace(wanted.offset_bytes, wanted.flags, data)))

    async def set_config(self, config: ConfigSpace) -> None:
        """A write by the driver; the device judges it, also where it is marked as part of a migration."""
        if config.flags not in (0, 1):
            raise DeviceError(f"config flags {config.flags:#x} are unknown")
        self._device.write_config(config.offset_bytes, config.data)

    async def set_backend_req_fd(self, fds: FdSet) -> None:
        """A channel for our own messages, in place of an earlier one."""
        (fd,) = fds.take()
        channel = BackendChannel(fd)
        # Kept before anything is waited for: the front end may hang up meanwhile.
        former, self._channel = self._channel, channel
        if former is not None:
            await former.close()

    async def set_log_base(self, log: LogDescription, fds: FdSet) -> Reply:
        """A dirty log, or another; front ends wait for the answer whether or not they asked for one."""
        (fd,) = fds.take()
        await self._device.set_log(fd, log.mmap_size_bytes, log.mmap_offset_bytes)
        return Reply(encode_u64(_ACK_SUCCESS))

    async def set_log_fd(self, fds: FdSet) -> None:
        """An eventfd for news in the dirty log: closed, as who looks at the log needs no news of it."""
        if fault := fds.eventfd_fault():
            raise DeviceError(f"the log fd is {fault}")

    async def get_inflight_fd(self, wanted: InflightDescription) -> Reply:
        """A new in-flight region for so many queues of that size."""
        self._check_inflight(wanted)
        fd, mmap_size_bytes, mmap_offset_bytes = await self._device.get_inflight(
            wanted.num_queues, wanted.queue_size
        )
        answer = msgspec.structs.replace(
            wanted, mmap_size_bytes=mmap_size_bytes, mmap_offset_bytes=mmap_offset_bytes
        )
        return Reply(encode_inflight(answer), fd)

    async def set_inflight_fd(self, inflight: InflightDescription, fds: FdSet) -> None:
        """An in-flight region from before, with what an earlier back end left undone."""
        self._check_inflight(inflight)
        (fd,) = fds.take()
        await self._device.set_inflight(
            fd,
            inflight.mmap_size_bytes,
            inflight.mmap_offset_bytes,
            inflight.num_queues,
            inflight.queue_size,
        )

    def _check_inflight(self, inflight: InflightDescription) -> None:
        if self._rings.any_running:
            raise DeviceError("the in-flight region cannot change while a queue is running")
        if not 1 <= inflight.num_queues <= self._device.num_queues:
            raise DeviceError(
                f"{inflight.num_queues} queues in flight, the device has {self._device.num_queues}"
            )
        if fault := queue_size_fault(inflight.queue_size):
            raise DeviceError(f"queue size {fault}")

    async def get_status(self) -> Reply:
        """The virtio device status (virtio 1.2, 2.1), as it was written last."""
        return Reply(encode_u64(self._status))

    async def set_status(self, status: int) -> None:
        """Write the virtio device status; 0 resets the device (virtio 1.2, 2.4)."""
        if status > _MAX_STATUS:
            raise DeviceError(f"device status {status:#x} is larger than a byte")
        if status == 0:
            await self.reset_device()
        self._status = status

    async def reset_device(self) -> None:
        """Stop all rings and forget what the driver said.

        Memory stays: QEMU tells only what changes from then on.
        """
        await self._rings.reset()
        self._device.set_features(0)
        if self._features & F_LOG_ALL:
            await self._device.set_logging(False)
        self._features = 0
        self._status = 0


_Handler: TypeAlias = Callable[[Session, Any, FdSet], Awaitable[Reply | None]]

_HANDLERS: dict[FrontendRequest, _Handler] = {
    FrontendRequest.GET_FEATURES: lambda session, payload, fds: session.get_features(),
    FrontendRequest.SET_FEATURES: lambda session, payload, fds: session.set_features(payload),
    FrontendRequest.SET_OWNER: lambda session, payload, fds: session.set_owner(),
    FrontendRequest.RESET_OWNER: lambda session, payload, fds: session._rings.set_all_enabled(False),
    FrontendRequest.SET_MEM_TABLE: lambda session, payload, fds: session._regions.replace(payload, fds),
    FrontendRequest.SET_LOG_BASE: lambda session, payload, fds: session.set_log_base(payload, fds),
    FrontendRequest.SET_LOG_FD: lambda session, payload, fds: session.set_log_fd(fds),
    FrontendRequest.SET_VRING_NUM: lambda session, payload, fds: session._rings.set_num(payload),
    FrontendRequest.SET_VRING_ADDR: lambda session, payload, fds: session._rings.set_address(payload),
    FrontendRequest.SET_VRING_BASE: lambda session, payload, fds: session._rings.set_base(payload),
    FrontendRequest.GET_VRING_BASE: lambda session, payload, fds: session.get_vring_base(payload),
    FrontendRequest.SET_VRING_KICK: lambda session, payload, fds: session._rings.set_fd("kick", payload, fds),
    FrontendRequest.SET_VRING_CALL: lambda session, payload, fds: session._rings.set_fd("call", payload, fds),
    FrontendRequest.SET_VRING_ERR: lambda session, payload, fds: session._rings.set_fd("err", payload, fds),
    FrontendRequest.GET_PROTOCOL_FEATURES: lambda session, payload, fds: session.get_protocol_features(),
    FrontendRequest.SET_PROTOCOL_FEATURES: lambda session, payload, fds: session.set_protocol_features(
        payload
    ),
    FrontendRequest.GET_QUEUE_NUM: lambda session, payload, fds: session.get_queue_num(),
    FrontendRequest.SET_VRING_ENABLE: lambda session, payload, fds: session._rings.set_enabled(payload),
    FrontendRequest.SET_BACKEND_REQ_FD: lambda session, payload, fds: session.set_backend_req_fd(fds),
    FrontendRequest.GET_CONFIG: lambda session, payload, fds: session.get_config(payload),
    FrontendRequest.SET_CONFIG: lambda session, payload, fds: session.set_config(payload),
    FrontendRequest.GET_INFLIGHT_FD: lambda session, payload, fds: session.get_inflight_fd(payload),
    FrontendRequest.SET_INFLIGHT_FD: lambda session, payload, fds: session.set_inflight_fd(payload, fds),
    FrontendRequest.RESET_DEVICE: lambda session, payload, fds: session.reset_device(),
    FrontendRequest.GET_MAX_MEM_SLOTS: lambda session, payload, fds: session.get_max_mem_slots(),
    FrontendRequest.ADD_MEM_REG: lambda session, payload, fds: session._regions.add(payload, fds),
    FrontendRequest.REM_MEM_REG: lambda session, payload, fds: session._regions.remove(payload),
    FrontendRequest.SET_STATUS: lambda session, payload, fds: session.set_status(payload),
    FrontendRequest.GET_STATUS: lambda session, payload, fds: session.get_status(),
}


async def serve_session(connected_socket: socket.socket, device: Device) -> None:
    """Serve one front end until it is gone (see `Session.serve`)."""
    await Session(connected_socket, device).serve()
