import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringblk.engine.vhost_user.codes import FrontendRequest, ProtocolFeature
from ringblk.engine.vhost_user.messages import (
    HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    BadMessage,
    ConfigSpace,
    Header,
    InflightDescription,
    LogDescription,
    StateDescription,
    VringAddress,
    VringFd,
    VringState,
    decode_header,
    decode_reply,
    decode_request,
    encode_message,
)
from ringblk.shm.memory.region import MemoryRegion
from tests.rigs.vhost_user_client import REGION, encode

u16 = st.integers(0, 2**16 - 1)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
states = st.builds(VringState, u32, u32)
vring_fds = st.builds(VringFd, st.integers(0, 255), st.booleans())
configs = st.builds(ConfigSpace, u32, u32, st.binary(min_size=1, max_size=256))
inflights = st.builds(InflightDescription, u64, u64, u16, u16)
low_u64 = st.integers(0, 2**63 - 1)
regions = st.builds(MemoryRegion, low_u64, st.integers(1, 2**63), low_u64, low_u64)

PAYLOADS = {
    FrontendRequest.GET_FEATURES: st.none(),
    FrontendRequest.SET_FEATURES: u64,
    FrontendRequest.SET_OWNER: st.none(),
    FrontendRequest.RESET_OWNER: st.none(),
    FrontendRequest.SET_MEM_TABLE: st.lists(regions, max_size=8).map(tuple),
    FrontendRequest.SET_LOG_BASE: st.builds(LogDescription, u64, u64),
    FrontendRequest.SET_LOG_FD: st.none(),
    FrontendRequest.SET_VRING_NUM: states,
    FrontendRequest.SET_VRING_ADDR: st.builds(VringAddress, u32, u32, u64, u64, u64, u64),
    FrontendRequest.SET_VRING_BASE: states,
    FrontendRequest.GET_VRING_BASE: states,
    FrontendRequest.SET_VRING_KICK: vring_fds,
    FrontendRequest.SET_VRING_CALL: vring_fds,
    FrontendRequest.SET_VRING_ERR: vring_fds,
    FrontendRequest.GET_PROTOCOL_FEATURES: st.none(),
    FrontendRequest.SET_PROTOCOL_FEATURES: u64,
    FrontendRequest.GET_QUEUE_NUM: st.none(),
    FrontendRequest.SET_VRING_ENABLE: states,
    FrontendRequest.SET_BACKEND_REQ_FD: st.none(),
    FrontendRequest.GET_CONFIG: configs,
    FrontendRequest.SET_CONFIG: configs,
    FrontendRequest.GET_INFLIGHT_FD: inflights,
    FrontendRequest.SET_INFLIGHT_FD: inflights,
    FrontendRequest.RESET_DEVICE: st.none(),
    FrontendRequest.GET_MAX_MEM_SLOTS: st.none(),
    FrontendRequest.ADD_MEM_REG: regions,
    FrontendRequest.REM_MEM_REG: regions,
    FrontendRequest.SET_STATUS: u64,
    FrontendRequest.GET_STATUS: st.none(),
    FrontendRequest.GET_SHMEM_CONFIG: st.none(),
    FrontendRequest.SET_DEVICE_STATE_FD: st.builds(StateDescription, u32, u32),
    FrontendRequest.CHECK_DEVICE_STATE: st.none(),
    FrontendRequest.GET_VRING_BASE_SKIP_DRAIN: states,
}


@given(st.data())
def test_every_request_reads_back_as_it_was_written(data: st.DataObject) -> None:
    request = data.draw(st.sampled_from(FrontendRequest))
    payload = data.draw(PAYLOADS[request])
    assert decode_request(request, encode(payload)) == payload


@given(st.data())
def test_a_payload_of_another_size_is_refused_by_name(data: st.DataObject) -> None:
    request = data.draw(st.sampled_from(FrontendRequest))
    encoded = encode(data.draw(PAYLOADS[request]))
    length = data.draw(st.integers(0, len(encoded) + 16).filter(lambda length: length != len(encoded)))
    if request.name.endswith("INFLIGHT_FD") and length == 20:
        return  # the one payload that comes in two sizes
    with pytest.raises(BadMessage, match=f"^{request.name}: "):
        decode_request(request, encoded.ljust(length, b"\0")[:length])


def test_numbers_are_the_specification_s() -> None:
    assert {request.value for request in FrontendRequest} == {
        *range(1, 19),
        *(21, 24, 25, 31, 32, 34),
        *range(36, 41),
        *range(42, 46),
    }
    assert ProtocolFeature.STATUS == 1 << 16
    assert ProtocolFeature.CONFIGURE_MEM_SLOTS == 1 << 15
    assert ProtocolFeature.INFLIGHT_SHMFD == 1 << 12
    assert ProtocolFeature.GET_VRING_BASE_INFLIGHT == 1 << 20
    assert ProtocolFeature.DEVICE_STATE == 1 << 19
    assert ProtocolFeature.SHMEM == 1 << 22
    assert ProtocolFeature.GET_VRING_BASE_SKIP_DRAIN == 1 << 23


def test_messages_have_the_bytes_that_the_specification_says() -> None:
    assert encode_message(1) == struct.pack("=III", 1, 1, 0)
    assert encode_message(18, encode(VringState(3, 1)), need_reply=True) == struct.pack("=5I", 18, 9, 8, 3, 1)
    assert encode_message(1, encode(5), reply=True) == struct.pack("=IIIQ", 1, 5, 8, 5)
    assert encode(REGION) == struct.pack("=5Q", 0, REGION.gpa, REGION.size_bytes, REGION.uva, 0x1000)
    assert encode((REGION,)) == struct.pack("=II4Q", 1, 0, 0, REGION.size_bytes, REGION.uva, 0x1000)
    assert encode(VringAddress(1, 0, 16, 4, 2, 9)) == struct.pack("=II4Q", 1, 0, 16, 4, 2, 9)
    assert encode(ConfigSpace(32, 0, b"\1")) == struct.pack("=IIIB", 32, 1, 0, 1)
    assert encode(InflightDescription(1, 2, 3, 4)) == struct.pack("=QQHHI", 1, 2, 3, 4, 0)
    assert encode(VringFd(3, False)) == struct.pack("=Q", 0x103)


def test_an_inflight_description_without_padding_is_read() -> None:
    payload = struct.pack("=QQHH", 1, 2, 3, 4)
    assert decode_request(FrontendRequest.GET_INFLIGHT_FD, payload) == InflightDescription(1, 2, 3, 4)


def test_replies_are_read() -> None:
    assert decode_reply(FrontendRequest.GET_FEATURES, encode(7)) == 7
    assert decode_reply(FrontendRequest.GET_VRING_BASE, encode(VringState(1, 9))) == VringState(1, 9)
    with pytest.raises(BadMessage, match="reply to GET_CONFIG"):
        decode_reply(FrontendRequest.GET_CONFIG, b"")


@pytest.mark.parametrize(
    ("request_", "payload", "fault"),
    [
        (FrontendRequest.SET_VRING_KICK, encode(0x200), "unknown bits"),
        (FrontendRequest.SET_MEM_TABLE, struct.pack("=II", 9, 0) + bytes(9 * 32), "9 regions"),
        (FrontendRequest.ADD_MEM_REG, encode(MemoryRegion(0, 0, 0, 0)), "size 0"),
        (FrontendRequest.ADD_MEM_REG, encode(MemoryRegion(2**64 - 1, 2, 0, 0)), "gpa"),
        (FrontendRequest.ADD_MEM_REG, encode(MemoryRegion(0, 2, 2**64 - 1, 0)), "uva"),
        (FrontendRequest.ADD_MEM_REG, encode(MemoryRegion(0, 2, 0, 2**64 - 1)), "mmap offset"),
        (FrontendRequest.GET_CONFIG, struct.pack("=III", 0, 0, 0), "0 bytes"),
        (FrontendRequest.GET_CONFIG, struct.pack("=III", 0, 257, 0) + bytes(257), "257 bytes"),
        (FrontendRequest.GET_CONFIG, struct.pack("=III", 0, 60, 0) + bytes(59), "71 bytes, expected 72"),
    ],
)
def test_wrong_values_are_refused_by_name(request_: FrontendRequest, payload: bytes, fault: str) -> None:
    with pytest.raises(BadMessage, match=f"{request_.name}.*{fault}"):
        decode_request(request_, payload)


@pytest.mark.parametrize(
    ("flags", "payload_bytes", "fault"),
    [
        (0, 0, "version 0"),
        (2, 0, "version 2"),
        (0x11, 0, "unknown flags"),
        (0x80000001, 0, "unknown flags"),
        (1, MAX_PAYLOAD_BYTES + 1, "payload of 4097 bytes"),
        (1, 2**32 - 1, "payload of 4294967295 bytes"),
    ],
)
def test_wrong_headers_are_refused(flags: int, payload_bytes: int, fault: str) -> None:
    with pytest.raises(BadMessage, match=f"SET_OWNER: {fault}"):
        decode_header(struct.pack("=III", 3, flags, payload_bytes))


def test_a_header_reads_back_as_it_was_written() -> None:
    header = decode_header(encode_message(99, bytes(5), need_reply=True)[:HEADER_BYTES])
    assert header == Header(99, 5, is_reply=False, need_reply=True)
    assert header.name == "request 99"
    assert decode_header(encode_message(1, reply=True)).is_reply
