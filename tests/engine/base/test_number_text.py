"""Sizes, as people write them: one way in options, files and bodies."""

import argparse
import json
from pathlib import Path

import pytest

from ringblk.engine.base.number_text import parse_size
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.options.command_line import OptionParser, add_engine_options, config_from
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.engine.options.drive_names import SOLE_DRIVE

BASE = ["--socket-path=/s", "--backend=null", "--backend-arg=size_bytes=512"]


def config_of(*options: str) -> DriveConfig:
    parser = OptionParser(allow_abbrev=False)
    add_engine_options(parser)
    arguments: argparse.Namespace = parser.parse_args([*BASE, *options])
    return config_from(arguments).drives[SOLE_DRIVE]


def values(config: DriveConfig, *names: str) -> list[object]:
    return [getattr(config, name) for name in names]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("0", 0),
        ("1k", 1024),
        ("1K", 1024),
        ("100M", 100 << 20),
        ("512MiB", 512 << 20),
        ("10GB", 10 << 30),
        (" 2 T ", 2 << 40),
        ("7B", 7),
        ("0x1000", 4096),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1.5G", "10 apples", "1KK", "0xg", "١٢", "1e3"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size such as 10G or 512M"):
        parse_size(text)


def test_every_option_that_is_bytes_takes_units() -> None:
    config = config_of(
        "--bps=100M", "--bps-read=1G", "--bps-write=2048K", "--burst=1MiB", "--one-time-burst=4k",
        "--logical-block-size=4K",
    )  # fmt: skip
    assert values(config, "bps", "bps_read", "bps_write") == [100 << 20, 1 << 30, 2 << 20]
    assert values(config, "burst", "one_time_burst", "logical_block_size") == [1 << 20, 4096, 4096]
    limits = config_of('--rate-limiter={"bandwidth": {"size": "10M", "refill_time": 100}}').rate_limits()
    assert limits.bytes_total is not None
    assert limits.bytes_total.tokens == 10 << 20


def test_a_configuration_file_takes_them_as_well(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"bps": "100M", "burst": 4096, "logical_block_size": "4KiB"}))
    config = config_of(f"--config={path}")
    assert values(config, "bps", "burst", "logical_block_size") == [100 << 20, 4096, 4096]


@pytest.mark.parametrize("option", ["--iops=5K", "--workers=1K", "--bps=fast", "--queue-size=1K"])
def test_what_is_no_number_of_bytes_takes_none(option: str) -> None:
    with pytest.raises(ProgramError, match=option.partition("=")[0]):
        config_of(option)


def test_front_ends_words_for_the_root_device_are_kept() -> None:
    config = config_of("--is-root-device", "--partuuid=0eaa91a0-01")
    assert (config.is_root_device, config.partuuid) == (True, "0eaa91a0-01")
