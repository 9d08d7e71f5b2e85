"""A drive that grows and shrinks."""

import os
from pathlib import Path

from ringblk import Frontend, RequestStatus, engine_command
from tests.rigs.control_client import (
    DISK_BYTES,
    ONE_IN_TEN_MINUTES,
    ControlClient,
    ControlledEngine,
)

OK, IOERR = int(RequestStatus.OK), int(RequestStatus.IOERR)


def test_the_drive_grows_and_shrinks(engine: ControlledEngine, control: ControlClient) -> None:
    assert engine.finish(engine.submit_write(DISK_BYTES)) == [IOERR]
    assert control.change("/drive", size_bytes=2 * DISK_BYTES)["drive"]["size_bytes"] == 2 * DISK_BYTES
    assert engine.image.stat().st_size == 2 * DISK_BYTES
    assert engine.frontend.refresh_config().capacity == 2 * DISK_BYTES // 512
    assert engine.finish(engine.submit_write(DISK_BYTES)) == [OK]
    control.change("/drive", size_bytes=DISK_BYTES // 2)
    assert engine.image.stat().st_size == DISK_BYTES // 2
    assert engine.frontend.refresh_config().capacity == DISK_BYTES // 2 // 512
    assert engine.finish(engine.submit_write(DISK_BYTES // 2 - 4096)) == [OK]
    assert engine.finish(engine.submit_write(DISK_BYTES // 2)) == [IOERR]
    assert engine.image.stat().st_size == DISK_BYTES // 2


def test_requests_in_flight_do_not_bring_the_old_end_back(
    engine: ControlledEngine, control: ControlClient
) -> None:
    control.change("/drive", rate_limiter=ONE_IN_TEN_MINUTES)
    offsets = range(DISK_BYTES // 2, DISK_BYTES // 2 + 8 * 4096, 4096)
    tokens = [engine.submit_write(offset) for offset in offsets]
    assert engine.finish(tokens[0]) == [OK]  # before the file was cut off; the others wait for tokens
    control.change("/drive", size_bytes=DISK_BYTES // 2)
    control.change("/drive", iops=0)
    assert engine.finish(*tokens[1:]) == [IOERR] * (len(tokens) - 1)  # as if they had come after it
    assert engine.image.stat().st_size == DISK_BYTES // 2


def test_a_file_that_somebody_else_has_extended(engine: ControlledEngine, control: ControlClient) -> None:
    os.truncate(engine.image, 3 * DISK_BYTES)
    assert control.change("/drive", size_bytes="image")["drive"]["size_bytes"] == 3 * DISK_BYTES
    assert engine.frontend.refresh_config().capacity == 3 * DISK_BYTES // 512


def test_a_file_that_somebody_else_has_extended_by_no_whole_sector(
    engine: ControlledEngine, control: ControlClient
) -> None:
    os.truncate(engine.image, 2 * DISK_BYTES + 100)
    assert control.change("/drive", size_bytes="image")["drive"]["size_bytes"] == 2 * DISK_BYTES
    assert engine.image.stat().st_size == 2 * DISK_BYTES + 100


def test_a_drive_of_fixed_size(tmp_path: Path) -> None:
    control = ControlClient(tmp_path / "control.sock")
    options = (
        "--backend=memory",
        f"--backend-arg=size_bytes={DISK_BYTES}",
        f"--control={control.socket_path}",
    )
    with Frontend(engine_command(*options)):
        status, answer = control.ask("PATCH", "/drive", {"size_bytes": 2 * DISK_BYTES})
        assert (status, answer["field"]) == (400, "size_bytes")
