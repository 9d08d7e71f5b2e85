"""vhost-user messages on the wire: header and payloads, written and read for both ends.

Source: QEMU, docs/interop/vhost-user.rst ("Message Specification", "Front-end message types",
"Back-end message types"). All numbers are in the machine's native byte order. Decoding is strict: whatever
has not exactly the form that the specification gives it raises `BadMessage`.
"""

import struct
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from ringblk.engine.vhost_user.codes import FrontendRequest
from ringblk.shm.memory.region import MemoryRegion

MAX_FD_COUNT = 8
"""The most fds that one message carries."""

MAX_TABLE_REGIONS = 8
"""The most regions in one SET_MEM_TABLE."""

MAX_CONFIG_BYTES = 256
"""The most config space bytes in one GET_CONFIG or SET_CONFIG (QEMU, VHOST_USER_MAX_CONFIG_SIZE)."""

MAX_PAYLOAD_BYTES = 4096
"""No message that is served here comes near this size; a larger one is refused before it is read."""


class BadMessage(Exception):  # noqa: N818
    """The peer sent what the specification does not allow; its text says which message and what is wrong.

    Nothing later on that connection can be trusted to be a message: log the text and close the connection.
    """


_HEADER = struct.Struct("=III")
HEADER_BYTES = _HEADER.size

_VERSION = 0x1
_VERSION_MASK = 0x3
_REPLY = 1 << 2
_NEED_REPLY = 1 << 3


class Header(msgspec.Struct, frozen=True):
    """The three numbers before every payload ("Header").

    `request` stays a plain number, as it may be one that nobody here knows.
    """

    request: int
    payload_bytes: int
    is_reply: bool = False
    need_reply: bool = False

    @property
    def name(self) -> str:
        """The front-end request's name for messages to people, or its number where it has no name here."""
        try:
            return FrontendRequest(self.request).name
        except ValueError:
            return f"request {self.request}"


def encode_message(
    request: int, payload: bytes = b"", *, reply: bool = False, need_reply: bool = False
) -> bytes:
    """Header and payload of one message."""
    flags = _VERSION | (_REPLY if reply else 0) | (_NEED_REPLY if need_reply else 0)
    return _HEADER.pack(request, flags, len(payload)) + payload


def decode_header(data: bytes) -> Header:
    """Read the header; `BadMessage` for another version, unknown flags or a payload above the limit."""
    request, flags, payload_bytes = _HEADER.unpack(data)
    header = Header(request, payload_bytes, bool(flags & _REPLY), bool(flags & _NEED_REPLY))
    if flags & _VERSION_MASK != _VERSION:
        raise BadMessage(f"{header.name}: version {flags & _VERSION_MASK}, expected {_VERSION}")
    if flags & ~(_VERSION_MASK | _REPLY | _NEED_REPLY):
        raise BadMessage(f"{header.name}: unknown flags {flags:#x}")
    if payload_bytes > MAX_PAYLOAD_BYTES:
        raise BadMessage(
            f"{header.name}: payload of {payload_bytes} bytes, at most {MAX_PAYLOAD_BYTES} allowed"
        )
    return header


class VringState(msgspec.Struct, frozen=True):
    """A number for one ring: its size, base or whether it is enabled ("A vring state description")."""

    queue_index: int
    num: int


class VringAddress(msgspec.Struct, frozen=True, array_like=True):
    """Where a ring's three parts lie, as the front end's addresses ("A vring address description")."""

    queue_index: int
    flags: int
    desc_uva: int
    used_uva: int
    avail_uva: int
    log_gpa: int = 0


class VringFd(msgspec.Struct, frozen=True):
    """Which ring a kick, call or err fd is for, and whether there is one (VHOST_USER_SET_VRING_KICK)."""

    queue_index: int
    has_fd: bool


class ConfigSpace(msgspec.Struct, frozen=True):
    """Bytes of the device's config space ("Virtio device config space"); `flags` 1 is for live migration."""

    offset_bytes: int
    flags: int
    data: bytes


class LogDescription(msgspec.Struct, frozen=True):
    """The dirty log's place in its fd ("Log description")."""

    mmap_size_bytes: int
    mmap_offset_bytes: int


class StateDescription(msgspec.Struct, frozen=True):
    """Where a device's state goes ("Device state transfer parameters")."""

    direction: int
    phase: int


class InflightDescription(msgspec.Struct, frozen=True):
    """The in-flight region's place in its fd and what it is made for ("Inflight description")."""

    mmap_size_bytes: int
    mmap_offset_bytes: int
    num_queues: int
    queue_size: int


Payload: TypeAlias = (
    int
    | VringState
    | VringAddress
    | VringFd
    | ConfigSpace
    | InflightDescription
    | LogDescription
    | StateDescription
    | MemoryRegion
    | tuple[MemoryRegion, ...]
    | None
)

_U64 = struct.Struct("=Q")
_VRING_STATE = struct.Struct("=II")
_VRING_ADDRESS = struct.Struct("=IIQQQQ")
_REGION = struct.Struct("=QQQQ")
_TABLE_HEADER = struct.Struct("=II")
_SINGLE_REGION_PADDING = bytes(8)
_CONFIG_HEADER = struct.Struct("=III")
_LOG = struct.Struct("=QQ")
# QEMU and others send the C structure with the four bytes of padding that the compiler puts at its end.
_INFLIGHT = struct.Struct("=QQHH4x")
_INFLIGHT_UNPADDED = struct.Struct("=QQHH")

_VRING_INDEX_MASK = 0xFF
_VRING_NO_FD = 1 << 8


def _check_size(payload: bytes, expected_bytes: int) -> None:
    if len(payload) != expected_bytes:
        raise BadMessage(f"payload of {len(payload)} bytes, expected {expected_bytes}")


def decode_nothing(payload: bytes) -> None:
    """A message without payload."""
    _check_size(payload, 0)


def encode_u64(value: int) -> bytes:
    """A single 64-bit integer."""
    return _U64.pack(value)


def decode_u64(payload: bytes) -> int:
    """A single 64-bit integer."""
    _check_size(payload, _U64.size)
    value: int = _U64.unpack(payload)[0]
    return value


def encode_vring_state(state: VringState) -> bytes:
    """A ring's index and a number."""
    return _VRING_STATE.pack(state.queue_index, state.num)


def decode_vring_state(payload: bytes) -> VringState:
    """A ring's index and a number."""
    _check_size(payload, _VRING_STATE.size)
    return VringState(*_VRING_STATE.unpack(payload))


def encode_vring_address(address: VringAddress) -> bytes:
    """A ring's addresses."""
    return _VRING_ADDRESS.pack(
        address.queue_index,
        address.flags,
        address.desc_uva,
        address.used_uva,
        address.avail_uva,
        address.log_gpa,
    )


def decode_vring_address(payload: bytes) -> VringAddress:
    """A ring's addresses."""
    _check_size(payload, _VRING_ADDRESS.size)
    return VringAddress(*_VRING_ADDRESS.unpack(payload))


def encode_vring_fd(vring_fd: VringFd) -> bytes:
    """The ring index in bits 0 to 7, and bit 8 where no fd comes along."""
    return _U64.pack(vring_fd.queue_index | (0 if vring_fd.has_fd else _VRING_NO_FD))


def decode_vring_fd(payload: bytes) -> VringFd:
    """The ring index in bits 0 to 7, and bit 8 where no fd comes along."""
    value = decode_u64(payload)
    if value & ~(_VRING_INDEX_MASK | _VRING_NO_FD):
        raise BadMessage(f"unknown bits in {value:#x}")
    return VringFd(value & _VRING_INDEX_MASK, not value & _VRING_NO_FD)


def _encode_region(region: MemoryRegion) -> bytes:
    return _REGION.pack(region.gpa, region.size_bytes, region.uva, region.mmap_offset_bytes)


def _check_region(region: MemoryRegion) -> MemoryRegion:
    if region.size_bytes == 0:
        raise BadMessage(f"region at {region.gpa:#x} of size 0")
    for name, start in (("gpa", region.gpa), ("uva", region.uva), ("mmap offset", region.mmap_offset_bytes)):
        if start + region.size_bytes > 1 << 64:
            raise BadMessage(f"region with {name} {start:#x} and size {region.size_bytes:#x} passes 2^64")
    return region


def encode_single_region(region: MemoryRegion) -> bytes:
    """One region, after eight bytes of padding."""
    return _SINGLE_REGION_PADDING + _encode_region(region)


def decode_single_region(payload: bytes) -> MemoryRegion:
    """One region; `BadMessage` where it is empty or runs past the end of an address space."""
    _check_size(payload, len(_SINGLE_REGION_PADDING) + _REGION.size)
    return _check_region(MemoryRegion(*_REGION.unpack_from(payload, len(_SINGLE_REGION_PADDING))))


def encode_region_table(regions: tuple[MemoryRegion, ...]) -> bytes:
    """A count, padding, and that many regions."""
    return _TABLE_HEADER.pack(len(regions), 0) + b"".join(map(_encode_region, regions))


def decode_region_table(payload: bytes) -> tuple[MemoryRegion, ...]:
    """A count of at most eight and exactly that many regions."""
    if len(payload) < _TABLE_HEADER.size:
        raise BadMessage(f"payload of {len(payload)} bytes, expected {_TABLE_HEADER.size} or more")
    count: int = _TABLE_HEADER.unpack_from(payload)[0]
    if count > MAX_TABLE_REGIONS:
        raise BadMessage(f"{count} regions, at most {MAX_TABLE_REGIONS} allowed")
    _check_size(payload, _TABLE_HEADER.size + count * _REGION.size)
    offsets = range(_TABLE_HEADER.size, len(payload), _REGION.size)
    return tuple(_check_region(MemoryRegion(*_REGION.unpack_from(payload, offset))) for offset in offsets)


def encode_config(config: ConfigSpace) -> bytes:
    """Offset, size, flags, and the bytes themselves (zeroes where they are asked for)."""
    return _CONFIG_HEADER.pack(config.offset_bytes, len(config.data), config.flags) + config.data


def decode_config(payload: bytes) -> ConfigSpace:
    """Offset, size, flags, and exactly as many bytes as the size says."""
    if len(payload) < _CONFIG_HEADER.size:
        raise BadMessage(f"payload of {len(payload)} bytes, expected {_CONFIG_HEADER.size} or more")
    offset_bytes, size_bytes, flags = _CONFIG_HEADER.unpack_from(payload)
    if not 0 < size_bytes <= MAX_CONFIG_BYTES:
        raise BadMessage(f"config access of {size_bytes} bytes, 1 to {MAX_CONFIG_BYTES} allowed")
    _check_size(payload, _CONFIG_HEADER.size + size_bytes)
    return ConfigSpace(offset_bytes, flags, payload[_CONFIG_HEADER.size :])


def encode_log(log: LogDescription) -> bytes:
    """Size and offset of the dirty log."""
    return _LOG.pack(log.mmap_size_bytes, log.mmap_offset_bytes)


def decode_log(payload: bytes) -> LogDescription:
    """Size and offset of the dirty log."""
    _check_size(payload, _LOG.size)
    return LogDescription(*_LOG.unpack(payload))


def decode_state(payload: bytes) -> StateDescription:
    """Direction and phase of a transfer of the device's state."""
    _check_size(payload, _VRING_STATE.size)
    return StateDescription(*_VRING_STATE.unpack(payload))


def encode_inflight(inflight: InflightDescription) -> bytes:
    """The in-flight description, with the padding that QEMU insists on."""
    return _INFLIGHT.pack(
        inflight.mmap_size_bytes, inflight.mmap_offset_bytes, inflight.num_queues, inflight.queue_size
    )


MAX_SHMEM_COUNT = 256
_SHMEM_CONFIG = struct.Struct(f"<II{MAX_SHMEM_COUNT}Q")


def decode_inflight(payload: bytes) -> InflightDescription:
    """The in-flight description, padded at its end or not."""
    if len(payload) == _INFLIGHT_UNPADDED.size:
        return InflightDescription(*_INFLIGHT_UNPADDED.unpack(payload))
    _check_size(payload, _INFLIGHT.size)
    return InflightDescription(*_INFLIGHT.unpack(payload))


def encode_shmem_config(sizes_bytes: Sequence[int]) -> bytes:
    """How many regions of shared memory a device has, and how large they are, by their ids."""
    return _SHMEM_CONFIG.pack(len(sizes_bytes), 0, *sizes_bytes, *[0] * (MAX_SHMEM_COUNT - len(sizes_bytes)))


_REQUEST_DECODERS: dict[FrontendRequest, Callable[[bytes], Payload]] = {
    FrontendRequest.GET_FEATURES: decode_nothing,
    FrontendRequest.SET_FEATURES: decode_u64,
    FrontendRequest.SET_OWNER: decode_nothing,
    FrontendRequest.RESET_OWNER: decode_nothing,
    FrontendRequest.SET_MEM_TABLE: decode_region_table,
    FrontendRequest.SET_LOG_BASE: decode_log,
    FrontendRequest.SET_LOG_FD: decode_nothing,
    FrontendRequest.SET_VRING_NUM: decode_vring_state,
    FrontendRequest.SET_VRING_ADDR: decode_vring_address,
    FrontendRequest.SET_VRING_BASE: decode_vring_state,
    FrontendRequest.GET_VRING_BASE: decode_vring_state,
    FrontendRequest.GET_VRING_BASE_SKIP_DRAIN: decode_vring_state,
    FrontendRequest.SET_VRING_KICK: decode_vring_fd,
    FrontendRequest.SET_VRING_CALL: decode_vring_fd,
    FrontendRequest.SET_VRING_ERR: decode_vring_fd,
    FrontendRequest.GET_PROTOCOL_FEATURES: decode_nothing,
    FrontendRequest.SET_PROTOCOL_FEATURES: decode_u64,
    FrontendRequest.GET_QUEUE_NUM: decode_nothing,
    FrontendRequest.SET_VRING_ENABLE: decode_vring_state,
    FrontendRequest.SET_BACKEND_REQ_FD: decode_nothing,
    FrontendRequest.GET_CONFIG: decode_config,
    FrontendRequest.SET_CONFIG: decode_config,
    FrontendRequest.GET_INFLIGHT_FD: decode_inflight,
    FrontendRequest.SET_INFLIGHT_FD: decode_inflight,
    FrontendRequest.RESET_DEVICE: decode_nothing,
    FrontendRequest.GET_MAX_MEM_SLOTS: decode_nothing,
    FrontendRequest.ADD_MEM_REG: decode_single_region,
    FrontendRequest.REM_MEM_REG: decode_single_region,
    FrontendRequest.SET_STATUS: decode_u64,
    FrontendRequest.GET_STATUS: decode_nothing,
    FrontendRequest.SET_DEVICE_STATE_FD: decode_state,
    FrontendRequest.CHECK_DEVICE_STATE: decode_nothing,
    FrontendRequest.GET_SHMEM_CONFIG: decode_nothing,
}

# Every other reply is a single 64-bit integer.
_REPLY_DECODERS: dict[int, Callable[[bytes], Payload]] = {
    FrontendRequest.GET_VRING_BASE: decode_vring_state,
    FrontendRequest.GET_VRING_BASE_SKIP_DRAIN: decode_vring_state,
    FrontendRequest.GET_CONFIG: decode_config,
    FrontendRequest.GET_INFLIGHT_FD: decode_inflight,
}


def decode_request(request: FrontendRequest, payload: bytes) -> Payload:
    """The payload of a front end's request; `BadMessage` names the request and what is wrong."""
    try:
        return _REQUEST_DECODERS[request](payload)
    except BadMessage as error:
        raise BadMessage(f"{request.name}: {error}") from None


def decode_reply(request: FrontendRequest, payload: bytes) -> Payload:
    """The payload of a back end's reply to `request`; `BadMessage` names the request and what is wrong.

    A GET_CONFIG that failed is answered without payload: that is a `BadMessage` too.
    """
    try:
        return _REPLY_DECODERS.get(request, decode_u64)(payload)
    except BadMessage as error:
        raise BadMessage(f"reply to {request.name}: {error}") from None
