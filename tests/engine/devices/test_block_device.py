import struct
from typing import Literal, TypeAlias, TypedDict, Unpack

import msgspec
import pytest

from ringblk.engine.devices.block_device import BlockDevice, BlockDeviceConfig
from ringblk.engine.devices.device import ConfigRefused
from ringblk.engine.devices.features import F_EVENT_IDX, F_VERSION_1
from ringblk.workers.block.config_space import CONFIG_BYTES, WRITEBACK_OFFSET_BYTES
from ringblk.workers.block.protocol import F_CONFIG_WCE, F_DISCARD, F_FLUSH, F_RO, F_WRITE_ZEROES

Cache: TypeAlias = Literal["writeback", "unsafe"]


class Values(TypedDict, total=False):
    """What may be said of a block device, except for its capacity."""

    read_only: bool
    cache: Cache
    num_queues: int
    queue_size: int
    logical_block_size_bytes: int
    physical_block_exponent: int
    alignment_offset_bytes: int
    minimum_io_bytes: int
    optimal_io_bytes: int
    discard_granularity_bytes: int


def block_device(capacity_bytes: int = 1 << 20, **values: Unpack[Values]) -> BlockDevice:
    return BlockDevice(BlockDeviceConfig(capacity_bytes=capacity_bytes, **values))


def field(device: BlockDevice, offset_bytes: int, form: str) -> int:
    value: int = struct.unpack(form, device.read_config(offset_bytes, struct.calcsize(form)))[0]
    return value


def test_features_on_offer() -> None:
    everything = sum(1 << bit for bit in (2, 6, 9, 10, 11, 12, 13, 14, 28, 29, 32))
    assert block_device().device_features == everything
    assert block_device(cache="unsafe").device_features == everything & ~(F_FLUSH | F_CONFIG_WCE)
    read_only = block_device(read_only=True).device_features
    assert read_only == everything & ~(F_DISCARD | F_WRITE_ZEROES) | F_RO


def test_every_field_stands_at_its_offset() -> None:
    device = block_device(
        num_queues=5,
        queue_size=256,
        logical_block_size_bytes=1024,
        physical_block_exponent=2,
    )
    assert CONFIG_BYTES == 60
    assert struct.unpack("<QII4xIBBHIBxHIIIIIB3x12x", device.read_config(0, 72)) == (
        *(2048, 0, 254),  # capacity, size_max, seg_max
        *(1024, 2, 0, 4, 0),  # blk_size and topology
        *(1, 5),  # writeback, num_queues
        *(0x200000, 16, 8),  # discard
        *(0x20000, 16, 1),  # write zeroes
    )
    assert field(device, 20, "<I") == 1024
    assert field(device, 32, "B") == 1
    assert field(device, 34, "<H") == 5
    assert field(device, 36, "<I") == 0x200000
    assert field(device, 56, "B") == 1


def topology(device: BlockDevice) -> tuple[int, ...]:
    """physical_block_exp, alignment_offset, min_io_size, opt_io_size, discard_sector_alignment."""
    fields = struct.unpack("<BBHI", device.read_config(24, 8))
    return *fields, field(device, 44, "<I")


def test_what_storage_prefers_is_told_in_logical_blocks() -> None:
    values: Values = {
        "physical_block_exponent": 3,
        "alignment_offset_bytes": 3584,
        "minimum_io_bytes": 65536,
        "optimal_io_bytes": 3 * 65536,
        "discard_granularity_bytes": 1536,
    }
    assert topology(block_device(**values)) == (3, 7, 128, 384, 3)
    values |= {"logical_block_size_bytes": 4096, "physical_block_exponent": 0}
    assert topology(block_device(**values)) == (0, 0, 16, 48, 8)


def test_what_has_no_place_in_the_config_space_is_not_told() -> None:
    values: Values = {
        "physical_block_exponent": 3,
        "alignment_offset_bytes": 4096,
        "minimum_io_bytes": 512 << 16,
        "optimal_io_bytes": 512 << 32,
        "discard_granularity_bytes": 1 << 40,
    }
    assert topology(block_device(**values)) == (3, 0, 8, 0, 0x200000)
    values |= {"alignment_offset_bytes": 100, "minimum_io_bytes": 100, "optimal_io_bytes": 100}
    assert topology(block_device(**values))[:4] == (3, 0, 8, 0)


def test_any_part_can_be_read_and_the_rest_is_zero() -> None:
    device = block_device()
    whole = device.read_config(0, 256)
    assert len(whole) == 256
    assert whole[60:] == bytes(196)
    for offset in range(80):
        assert device.read_config(offset, 5) == whole[offset : offset + 5]
    assert device.read_config(2**32 - 1, 4) == bytes(4)


def test_a_read_only_device_has_no_limits_for_what_it_does_not_do() -> None:
    assert block_device(read_only=True).read_config(36, 24) == bytes(24)


def test_capacity_is_whole_logical_blocks_and_can_change() -> None:
    device = block_device(capacity_bytes=4096 * 3 + 4095, logical_block_size_bytes=4096)
    assert device.num_sectors == field(device, 0, "<Q") == 24
    assert device.bytes_out_of_reach == 4095
    device.set_capacity(4096 * 7)
    assert device.num_sectors == field(device, 0, "<Q") == 56
    assert device.bytes_out_of_reach == 0
    with pytest.raises(ValueError, match="-1"):
        device.set_capacity(-1)


@pytest.mark.parametrize(
    ("cache", "accepted", "write_through"),
    [
        ("writeback", F_FLUSH | F_CONFIG_WCE, False),
        ("writeback", F_FLUSH, False),
        ("writeback", F_CONFIG_WCE, True),
        ("writeback", 0, True),
        ("unsafe", 0, False),
    ],
)
def test_write_through_follows_what_the_driver_accepts(
    cache: Cache, accepted: int, write_through: bool
) -> None:
    device = block_device(cache=cache)
    device.set_features(F_VERSION_1 | accepted)
    assert device.write_through == write_through


def test_the_driver_turns_write_back_off_and_on() -> None:
    device = block_device()
    device.set_features(F_VERSION_1 | F_FLUSH | F_CONFIG_WCE)
    device.write_config(WRITEBACK_OFFSET_BYTES, b"\0")
    assert device.write_through
    assert field(device, WRITEBACK_OFFSET_BYTES, "B") == 0
    device.write_config(WRITEBACK_OFFSET_BYTES, b"\1")
    assert not device.write_through
    device.write_config(WRITEBACK_OFFSET_BYTES, b"\0")
    device.set_features(0)
    device.set_features(F_VERSION_1 | F_FLUSH | F_CONFIG_WCE)
    assert not device.write_through


def test_write_back_may_be_turned_off_before_the_features_are_told() -> None:
    device = block_device()
    device.write_config(WRITEBACK_OFFSET_BYTES, b"\0")
    device.set_features(F_VERSION_1 | F_FLUSH | F_CONFIG_WCE)
    assert device.write_through


@pytest.mark.parametrize(
    ("offset_bytes", "data", "fault"),
    [
        (0, bytes(8), "read-only"),
        (31, b"\1", "read-only"),
        (33, b"\1", "read-only"),
        (WRITEBACK_OFFSET_BYTES, b"\1\0", "read-only"),
        (WRITEBACK_OFFSET_BYTES, b"", "read-only"),
        (1000, b"\1", "read-only"),
        (WRITEBACK_OFFSET_BYTES, b"\2", "writeback 2"),
    ],
)
def test_other_writes_are_refused(offset_bytes: int, data: bytes, fault: str) -> None:
    device = block_device()
    device.set_features(F_VERSION_1 | F_FLUSH | F_CONFIG_WCE)
    before = device.read_config(0, CONFIG_BYTES)
    with pytest.raises(ConfigRefused, match=fault):
        device.write_config(offset_bytes, data)
    assert device.read_config(0, CONFIG_BYTES) == before


@pytest.mark.parametrize(("cache", "accepted"), [("writeback", F_FLUSH | F_EVENT_IDX), ("unsafe", 0)])
def test_write_back_is_not_written_without_config_wce(cache: Cache, accepted: int) -> None:
    device = block_device(cache=cache)
    device.set_features(F_VERSION_1 | accepted)
    with pytest.raises(ConfigRefused, match="CONFIG_WCE"):
        device.write_config(WRITEBACK_OFFSET_BYTES, b"\0")


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"queue_size": 100}, "queue_size"),
        ({"queue_size": 1}, "queue_size"),
        ({"num_queues": 65}, "num_queues"),
        ({"num_queues": 0}, "num_queues"),
        ({"logical_block_size_bytes": 513}, "logical_block_size_bytes"),
        ({"logical_block_size_bytes": 8192}, "logical_block_size_bytes"),
        ({"logical_block_size_bytes": 4096, "physical_block_exponent": 4}, "physical block"),
        ({"cache": "none"}, "cache"),
        ({"caches": "unsafe"}, "caches"),
        ({"capacity_bytes": -1}, "capacity_bytes"),
    ],
)
def test_values_that_make_no_device_are_named(values: dict[str, int | str], fault: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=fault):
        msgspec.convert({"capacity_bytes": 4096, **values}, BlockDeviceConfig)
