"""`PATCH /drive` changes all that its body names or nothing, and takes what `GET /` gives."""

import fcntl
import os
import resource
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import posix_ipc
import pytest

from ringblk.engine.control.messages import DriveBody
from ringblk.engine.options.rate_limiter_config import RateLimitOptions
from ringblk.shm.platform.form import LINUX
from tests.rigs.control_client import DISK_BYTES, ONE_IN_TEN_MINUTES, ControlClient, ControlledEngine
from tests.rigs.engine_rig import Engine
from tests.rigs.group_lock import lock_group

NAMES = DriveBody.__struct_fields__
CHANGES: dict[str, object] = {
    "bps": 7_000_000,
    "iops": 900,
    "cache": "unsafe",
    "is_root_device": True,
    "partuuid": "0eaa91a0-02",
}
LIMITS = [field.name for field in msgspec.structs.fields(RateLimitOptions)]
LARGEST_FILE_BYTES = 1 << 40


@pytest.fixture(scope="module")
def shared_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlledEngine]:
    engine = ControlledEngine(tmp_path_factory.mktemp("shared"), "--workers=1")
    limit_file_size(engine)
    yield engine
    engine.close()


@pytest.fixture
def engine(shared_engine: ControlledEngine) -> ControlledEngine:
    """An engine without limits, as large as its image was at first."""
    shared_engine.control.change("/drive", size_bytes=DISK_BYTES, **dict.fromkeys(LIMITS))
    return shared_engine


@pytest.fixture
def group() -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex}"
    yield name
    if (Path("/dev/shm") / f"ringblk-rate-{name}").exists():
        posix_ipc.unlink_shared_memory(f"/ringblk-rate-{name}")


def limit_file_size(engine: ControlledEngine) -> None:
    """Have the host refuse larger files, which some file systems take up to 2**63 bytes."""
    assert engine.frontend.backend_pid is not None
    resource.prlimit(engine.frontend.backend_pid, resource.RLIMIT_FSIZE, (LARGEST_FILE_BYTES,) * 2)


def refused(control: ControlClient, body: dict[str, object], status: int, field: str) -> None:
    """Send a body that is refused and see that nothing was changed by it."""
    before = control.get()["drive"]
    answered, answer = control.ask("PATCH", "/drive", body)
    assert (answered, answer["field"]) == (status, field), answer
    assert control.get()["drive"] == before


# One test for each way to fail, each with everything else beside it that could have been changed before.


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"size_bytes": 1000}, "size_bytes"),
        ({"size_bytes": 1 << 63}, "size_bytes"),
        ({"size_bytes": LARGEST_FILE_BYTES * 2}, "size_bytes"),  # more than the host lets it have
        ({"cache": "fast"}, "cache"),
        ({"iops_burst": 1 << 62}, "iops_burst"),
        ({"bps": 1, "burst": 1 << 62}, "burst"),
        ({"bps_read": {"tokens": 1, "period_ms": 1 << 50}}, "bps_read.tokens"),
        ({"rate_limiter": {}}, "bps"),
        ({"partuuid": 7}, "partuuid"),
        ({"partuuid": "x" * 65}, "partuuid"),
        ({"partuuid": "1 init=/bin/sh"}, "partuuid"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_is_refused_leaves_everything_as_it_was(
    engine: ControlledEngine, wrong: dict[str, object], field: str
) -> None:
    refused(engine.control, {"size_bytes": 2 * DISK_BYTES, **CHANGES, **wrong}, 400, field)
    assert engine.image.stat().st_size == DISK_BYTES


def test_a_file_that_cannot_grow_leaves_everything_as_it_was(tmp_path: Path) -> None:
    def allow_no_more() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (DISK_BYTES, DISK_BYTES))

    image = tmp_path / "disk.img"
    image.write_bytes(bytes(DISK_BYTES))
    control = ControlClient(tmp_path / "control")
    options = [f"--blk-file={image}", f"--control={control.socket_path}", "--workers=1"]
    with Engine(*options, prepare=allow_no_more):
        refused(control, {"size_bytes": 2 * DISK_BYTES, **CHANGES}, 400, "size_bytes")
        assert control.change("/drive", **CHANGES)["drive"]["bps"] == 7_000_000


@pytest.mark.parametrize("size_bytes", [2 * DISK_BYTES, DISK_BYTES // 2])
def test_a_group_that_is_locked_leaves_everything_as_it_was(
    tmp_path: Path, group: str, size_bytes: int
) -> None:
    engine = ControlledEngine(tmp_path, "--workers=1", f"--rate-group={group}", "--bps=5000000")
    lock_fd = lock_group(group)
    refused(engine.control, {"size_bytes": size_bytes, **CHANGES}, 409, "")
    assert engine.image.stat().st_size == DISK_BYTES
    assert not engine.control.get()["is_paused"]
    os.close(lock_fd)
    changed = engine.control.change("/drive", size_bytes=size_bytes, **CHANGES)["drive"]
    assert (changed["size_bytes"], changed["bps"], changed["cache"]) == (size_bytes, 7_000_000, "unsafe")
    assert engine.image.stat().st_size == size_bytes
    engine.close()


def test_a_size_that_fails_in_a_group_lets_the_group_go(tmp_path: Path, group: str) -> None:
    engine = ControlledEngine(tmp_path, "--workers=1", f"--rate-group={group}", "--bps=5000000")
    limit_file_size(engine)
    refused(engine.control, {"size_bytes": LARGEST_FILE_BYTES * 2, **CHANGES}, 400, "size_bytes")
    fd = posix_ipc.SharedMemory(f"/ringblk-rate-{group}").fd
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, b"\1\0\0\0" + bytes(28))  # at once: nobody holds it
    os.close(fd)
    engine.close()


def test_changes_that_come_together_are_made_one_after_the_other(engine: ControlledEngine) -> None:
    bodies = [
        {"size_bytes": (2 + number) * DISK_BYTES, "bps": 1_000_000 + number, "iops": 100 + number}
        for number in range(8)
    ]
    threads = [
        threading.Thread(target=lambda body=body: engine.control.change("/drive", **body)) for body in bodies
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    drive = engine.control.get()["drive"]
    assert {"size_bytes": drive["size_bytes"], "bps": drive["bps"], "iops": drive["iops"]} in bodies


# What is given can be taken.


def settings_of(drive: dict[str, Any]) -> dict[str, Any]:
    """What `PATCH /drive` takes of the drive's description."""
    return {name: drive[name] for name in NAMES if name in drive}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"bps": 5000, "iops": 70},
        {"bps": 5000, "bps_read": 3000, "burst": 100, "one_time_burst": 12345, "iops_write": 9},
        {"rate_limiter": {"bandwidth": {"size": 10_000_000, "refill_time": 100, "one_time_burst": 5}}},
        {"rate_limiter": {"ops": {"size": 10, "refill_time": 3000}}},
        {"bps": (1 << 62) + 12345, "iops_read": 1},
        {"bps_read": {"tokens": 7, "period_ms": 3, "burst": 5, "one_time_burst": 9}, "bps_write": 100},
    ],
)
def test_what_get_gives_changes_nothing(engine: ControlledEngine, body: dict[str, object]) -> None:
    before = engine.control.change("/drive", **body)["drive"]
    assert engine.control.change("/drive", **settings_of(before))["drive"] == before


def test_every_limit_is_told_under_the_name_that_is_taken(engine: ControlledEngine) -> None:
    limits = {
        "bps": 1000, "bps_read": 2000, "bps_write": 3000, "burst": 400, "one_time_burst": 5,
        "iops": 10, "iops_read": 20, "iops_write": 30, "iops_burst": 4, "iops_one_time_burst": 6,
    }  # fmt: skip
    drive = engine.control.change("/drive", **limits)["drive"]
    assert {name: drive[name] for name in limits} == limits
    gone = engine.control.change("/drive", **dict.fromkeys(limits))["drive"]
    assert {gone[name] for name in limits} == {None}


def test_bursts_that_differ_are_told_limit_by_limit(engine: ControlledEngine) -> None:
    engine.control.change("/drive", bps=1000, burst=100)
    drive = engine.control.change("/drive", bps_read=2000, burst=7)["drive"]
    assert drive["bps"] == {"tokens": 1000, "period_ms": 1000, "burst": 100, "one_time_burst": 0}
    assert drive["bps_read"] == {"tokens": 2000, "period_ms": 1000, "burst": 7, "one_time_burst": 0}
    assert drive["burst"] is None


def test_a_limit_that_is_set_to_what_it_is_goes_on_where_it_was(engine: ControlledEngine) -> None:
    control = engine.control
    written = control.operation("write")["request_count"]
    control.change("/drive", rate_limiter=ONE_IN_TEN_MINUTES)
    assert engine.finish(engine.submit_write(0)) == [0]  # the bucket is empty now
    token = engine.submit_write(4096)
    control.change("/drive", **settings_of(control.get()["drive"]))
    control.change("/workers", count=2)  # the dispatcher has been through its loop
    assert control.operation("write")["request_count"] == written + 1
    control.change("/drive", iops=None)
    assert engine.finish(token) == [0]


def test_sizes_are_taken_with_units(engine: ControlledEngine) -> None:
    drive = engine.control.change(
        "/drive", size_bytes="8M", bps="100M", burst="1MiB", one_time_burst="4k", bps_read={"tokens": "1G"}
    )["drive"]
    assert (drive["size_bytes"], drive["one_time_burst"]) == (8 << 20, None)
    assert drive["bps"] == {"tokens": 100 << 20, "period_ms": 1000, "burst": 1 << 20, "one_time_burst": 4096}
    assert drive["bps_read"]["tokens"] == 1 << 30
    limiter = {"bandwidth": {"size": "10M", "refill_time": 100, "one_time_burst": "1G"}}
    drive = engine.control.change("/drive", rate_limiter=limiter)["drive"]
    assert drive["bps"] == {
        "tokens": 10 << 20,
        "period_ms": 100,
        "burst": 10 << 20,
        "one_time_burst": 1 << 30,
    }
    refused(engine.control, {"iops": "5K"}, 400, "iops")
    refused(engine.control, {"bps": "5 bananas"}, 400, "bps")


def test_what_the_engine_is_is_told(engine: ControlledEngine) -> None:
    described = engine.control.get()
    assert {"direct", "direct_reason", "io_engine", "io_engine_reason", "sandbox"} <= described.keys()
    assert described["sandbox"].startswith("on" if LINUX else "off (none in this build)")
    assert described["worker_count"] == sum(role.startswith("worker") for role in described["processes"])
    assert msgspec.convert(settings_of(described["drive"]), DriveBody).cache == "writeback"
