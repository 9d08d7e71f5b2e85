"""What a front end may ask of a session: one method for each vhost-user request, and what they lead to."""

import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import msgspec

from ringblk.engine.devices.device import ConfigRefused, Device, DeviceError
from ringblk.engine.vhost_user.backend_channel import BackendChannel
from ringblk.engine.vhost_user.codes import (
    F_LOG_ALL,
    F_PROTOCOL_FEATURES,
    FrontendRequest,
    ProtocolFeature,
)
from ringblk.engine.vhost_user.device_state import DeviceState
from ringblk.engine.vhost_user.fd_set import FdSet
from ringblk.engine.vhost_user.message_socket import ReceivedMessage
from ringblk.engine.vhost_user.messages import (
    BadMessage,
    ConfigSpace,
    Header,
    InflightDescription,
    LogDescription,
    StateDescription,
    VringState,
    decode_request,
    encode_config,
    encode_inflight,
    encode_shmem_config,
    encode_u64,
    encode_vring_state,
)
from ringblk.engine.vhost_user.region_table import RegionTable
from ringblk.engine.vhost_user.request_rules import NEEDED_FEATURE, OWN_REPLY, expected_fd_counts
from ringblk.engine.vhost_user.session_keeper import FdsByHandle, KeptSession, take_held
from ringblk.engine.vhost_user.session_marks import SessionMarks
from ringblk.engine.vhost_user.vring_table import VringTable
from ringblk.shm.layout.sizes import queue_size_fault

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
    | ProtocolFeature.GET_VRING_BASE_INFLIGHT
    | ProtocolFeature.GET_VRING_BASE_SKIP_DRAIN
)
"""What a session offers of the protocol."""
SESSION_FEATURES = F_PROTOCOL_FEATURES | F_LOG_ALL
"""The features that are the session's own, whatever the device is."""

ACK_SUCCESS = 0
ACK_FAILURE = 1
_MAX_STATUS = 0xFF

_log = logging.getLogger(__name__)


class Reply(msgspec.Struct, frozen=True):
    """A message's own answer. Its fd is closed once it is sent."""

    payload: bytes
    fd: int | None = None


class SessionRequests:
    """Carries out requests one at a time, and holds what the front end has said: all that they change."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.marks: SessionMarks | None = None
        """Those of a session that is kept."""
        self.rings = VringTable(device)
        self.regions = RegionTable(device, device.max_mem_slots)
        self.channel: BackendChannel | None = None
        self.state = DeviceState(device)
        """On its way; one of a process before is lost."""
        self.features = 0
        self.protocol_features = ProtocolFeature(0)
        self.status = 0

    @classmethod
    def resume(
        cls, device: Device, marks: SessionMarks, kept: KeptSession, fds: FdsByHandle
    ) -> "SessionRequests":
        """As they were kept, with their descriptors out of `fds`."""
        requests = cls(device)
        requests.marks = marks
        requests.rings = VringTable.resume(device, kept.rings, fds)
        requests.regions = RegionTable(device, kept.slot_count, kept.memory_regions())
        channel = take_held(fds, kept.channel)
        requests.channel = None if channel is None else BackendChannel(channel, marks)
        requests.features = kept.features
        requests.protocol_features = ProtocolFeature(kept.protocol_features)
        requests.status = kept.status
        return requests

    async def close(self) -> None:
        """Close all that the front end has handed over."""
        self.rings.close()
        self.state.close()
        if self.channel is not None:
            await self.channel.close()

    def wants_ack(self, header: Header) -> bool:
        """Asked for after the message is carried out, so that the one that negotiates it counts already."""
        return (
            header.need_reply
            and header.request not in OWN_REPLY
            and ProtocolFeature.REPLY_ACK in self.protocol_features
        )

    async def carry_out(self, message: ReceivedMessage) -> Reply | None:
        """Do what a message asks for; its own answer, where it has one.

        Raises `BadMessage`, and `DeviceError` or `ConfigRefused` where it cannot be done.
        """
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
        if needed_feature is not None and needed_feature not in self.protocol_features:
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
        changed = features ^ self.features
        if self.rings.any_running and changed & ~F_LOG_ALL:
            raise DeviceError("features cannot change while a queue is running")
        if changed != F_LOG_ALL:
            self._device.set_features(features & ~SESSION_FEATURES)
        if changed & F_LOG_ALL:
            await self._device.set_logging(bool(features & F_LOG_ALL))
        self.features = features
        if not features & F_PROTOCOL_FEATURES:
            await self.rings.set_all_enabled(True)

    async def get_protocol_features(self) -> Reply:
        """What of the protocol is on offer."""
        return Reply(encode_u64(self._offered_features))

    async def set_protocol_features(self, features: int) -> None:
        """Accept protocol features."""
        if unknown := features & ~self._offered_features:
            raise DeviceError(f"protocol features {unknown:#x} are not on offer")
        self.protocol_features = ProtocolFeature(features)

    @property
    def _offered_features(self) -> int:
        window = ProtocolFeature.SHMEM | ProtocolFeature.BACKEND_SEND_FD
        state = 0 if self._device.moved_state is None else ProtocolFeature.DEVICE_STATE
        return PROTOCOL_FEATURES | state | (window if self._device.window_bytes else 0)

    async def get_shmem_config(self) -> Reply:
        """The regions of shared memory that the device has: its window."""
        return Reply(encode_shmem_config([self._device.window_bytes]))

    async def get_queue_num(self) -> Reply:
        """How many queues the device has."""
        return Reply(encode_u64(self._device.num_queues))

    async def get_max_mem_slots(self) -> Reply:
        """How many memory regions may be added."""
        return Reply(encode_u64(self.regions.slot_count))

    async def get_vring_base(self, state: VringState) -> Reply:
        """Stop a ring and say where it stands."""
        return Reply(encode_vring_state(await self.rings.get_base(state)))

    async def suspend_vring(self, state: VringState) -> Reply:
        """Stop a ring whose requests in flight are another back end's to do, and say where it stands."""
        return Reply(encode_vring_state(await self.rings.get_base(state, is_suspended=True)))

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
        (held,) = fds.take_held()
        channel = BackendChannel(held, self.marks)
        # In place before anything is waited for: the front end may hang up meanwhile.
        former, self.channel = self.channel, channel
        if former is not None:
            await former.close()
        if (
            self._device.window_bytes
            and self._answers_mappings
            and (self._knows_shmem or self._may_know_fs_map)
        ):
            await self._device.set_backend_channel(os.dup(held.fd), is_legacy=not self._knows_shmem)

    @property
    def _knows_shmem(self) -> bool:
        """Whether the front end maps what SHMEM_MAP asks for."""
        return ProtocolFeature.SHMEM in self.protocol_features

    @property
    def _may_know_fs_map(self) -> bool:
        """Whether it may know the older form, which no protocol feature is of.

        Front ends that do take what they have a use for. QEMU, which does not, takes all that it has heard
        of, and hangs up on what it does not know.
        """
        return not self.protocol_features & (ProtocolFeature.RESET_DEVICE | ProtocolFeature.STATUS)

    @property
    def _answers_mappings(self) -> bool:
        """Whether it takes descriptors on the channel, and answers: in either form both are needed."""
        needed = ProtocolFeature.BACKEND_SEND_FD | ProtocolFeature.REPLY_ACK
        return needed in self.protocol_features

    async def set_log_base(self, log: LogDescription, fds: FdSet) -> Reply:
        """A dirty log, or another; front ends wait for the answer whether or not they asked for one."""
        (fd,) = fds.take()
        await self._device.set_log(fd, log.mmap_size_bytes, log.mmap_offset_bytes)
        return Reply(encode_u64(ACK_SUCCESS))

    async def set_log_fd(self, fds: FdSet) -> None:
        """An eventfd for news in the dirty log: closed, as who looks at the log needs no news of it."""
        if fault := fds.eventfd_fault(is_read=False):
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
        if self.rings.any_running:
            raise DeviceError("the in-flight region cannot change while a queue is running")
        if not 1 <= inflight.num_queues <= self._device.num_queues:
            raise DeviceError(
                f"{inflight.num_queues} queues in flight, the device has {self._device.num_queues}"
            )
        if fault := queue_size_fault(inflight.queue_size):
            raise DeviceError(f"queue size {fault}")

    async def set_device_state_fd(self, state: StateDescription, fds: FdSet) -> Reply:
        """Give the device's state through a pipe, or take it."""
        return Reply(encode_u64(await self.state.begin(state, fds, is_running=self.rings.any_running)))

    async def check_device_state(self) -> Reply:
        """Whether the state is over, and what was taken is the device's now."""
        return Reply(encode_u64(await self.state.check(is_running=self.rings.any_running)))

    async def get_status(self) -> Reply:
        """The virtio device status (virtio 1.2, 2.1), as it was written last."""
        return Reply(encode_u64(self.status))

    async def set_status(self, status: int) -> None:
        """Write the virtio device status; 0 resets the device (virtio 1.2, 2.4)."""
        if status > _MAX_STATUS:
            raise DeviceError(f"device status {status:#x} is larger than a byte")
        if status == 0:
            await self.reset_device()
        self.status = status

    async def reset_device(self) -> None:
        """Stop all rings and forget what the driver said.

        Memory stays: QEMU tells only what changes from then on.
        """
        await self.rings.reset()
        self._device.set_features(0)
        if self.features & F_LOG_ALL:
            await self._device.set_logging(False)
        self.features = 0
        self.status = 0


_Handler: TypeAlias = Callable[[SessionRequests, Any, FdSet], Awaitable[Reply | None]]

_HANDLERS: dict[FrontendRequest, _Handler] = {
    FrontendRequest.GET_FEATURES: lambda requests, payload, fds: requests.get_features(),
    FrontendRequest.SET_FEATURES: lambda requests, payload, fds: requests.set_features(payload),
    FrontendRequest.SET_OWNER: lambda requests, payload, fds: requests.set_owner(),
    FrontendRequest.RESET_OWNER: lambda requests, payload, fds: requests.rings.set_all_enabled(False),
    FrontendRequest.SET_MEM_TABLE: lambda requests, payload, fds: requests.regions.replace(payload, fds),
    FrontendRequest.SET_LOG_BASE: lambda requests, payload, fds: requests.set_log_base(payload, fds),
    FrontendRequest.SET_LOG_FD: lambda requests, payload, fds: requests.set_log_fd(fds),
    FrontendRequest.SET_VRING_NUM: lambda requests, payload, fds: requests.rings.set_num(payload),
    FrontendRequest.SET_VRING_ADDR: lambda requests, payload, fds: requests.rings.set_address(payload),
    FrontendRequest.SET_VRING_BASE: lambda requests, payload, fds: requests.rings.set_base(payload),
    FrontendRequest.GET_VRING_BASE: lambda requests, payload, fds: requests.get_vring_base(payload),
    FrontendRequest.GET_VRING_BASE_SKIP_DRAIN: lambda requests, payload, fds: requests.suspend_vring(payload),
    FrontendRequest.SET_VRING_KICK: lambda requests, payload, fds: requests.rings.set_fd(
        "kick", payload, fds
    ),
    FrontendRequest.SET_VRING_CALL: lambda requests, payload, fds: requests.rings.set_fd(
        "call", payload, fds
    ),
    FrontendRequest.SET_VRING_ERR: lambda requests, payload, fds: requests.rings.set_fd("err", payload, fds),
    FrontendRequest.GET_PROTOCOL_FEATURES: lambda requests, payload, fds: requests.get_protocol_features(),
    FrontendRequest.SET_PROTOCOL_FEATURES: lambda requests, payload, fds: requests.set_protocol_features(
        payload
    ),
    FrontendRequest.GET_SHMEM_CONFIG: lambda requests, payload, fds: requests.get_shmem_config(),
    FrontendRequest.SET_DEVICE_STATE_FD: lambda requests, payload, fds: requests.set_device_state_fd(
        payload, fds
    ),
    FrontendRequest.CHECK_DEVICE_STATE: lambda requests, payload, fds: requests.check_device_state(),
    FrontendRequest.GET_QUEUE_NUM: lambda requests, payload, fds: requests.get_queue_num(),
    FrontendRequest.SET_VRING_ENABLE: lambda requests, payload, fds: requests.rings.set_enabled(payload),
    FrontendRequest.SET_BACKEND_REQ_FD: lambda requests, payload, fds: requests.set_backend_req_fd(fds),
    FrontendRequest.GET_CONFIG: lambda requests, payload, fds: requests.get_config(payload),
    FrontendRequest.SET_CONFIG: lambda requests, payload, fds: requests.set_config(payload),
    FrontendRequest.GET_INFLIGHT_FD: lambda requests, payload, fds: requests.get_inflight_fd(payload),
    FrontendRequest.SET_INFLIGHT_FD: lambda requests, payload, fds: requests.set_inflight_fd(payload, fds),
    FrontendRequest.RESET_DEVICE: lambda requests, payload, fds: requests.reset_device(),
    FrontendRequest.GET_MAX_MEM_SLOTS: lambda requests, payload, fds: requests.get_max_mem_slots(),
    FrontendRequest.ADD_MEM_REG: lambda requests, payload, fds: requests.regions.add(payload, fds),
    FrontendRequest.REM_MEM_REG: lambda requests, payload, fds: requests.regions.remove(payload),
    FrontendRequest.SET_STATUS: lambda requests, payload, fds: requests.set_status(payload),
    FrontendRequest.GET_STATUS: lambda requests, payload, fds: requests.get_status(),
}
