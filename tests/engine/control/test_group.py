"""A rate group that another process of the same user keeps locked: PATCH gives up, and the engine goes on."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import posix_ipc
import pytest

from ringblk.shm.segments.shared_folder import shared_names
from tests.rigs.control_client import ControlClient
from tests.rigs.engine_rig import Engine
from tests.rigs.group_lock import lock_group


@pytest.fixture
def group() -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex}"
    yield name
    for left in shared_names(f"ringblk-rate-{name}"):
        posix_ipc.unlink_shared_memory("/" + left)


def test_a_locked_group_keeps_nothing_waiting(tmp_path: Path, group: str) -> None:
    control = ControlClient(tmp_path / "control")
    options = ["--backend=memory", "--backend-arg=size_bytes=1048576", f"--control={control.socket_path}"]
    with Engine(*options, f"--rate-group={group}", "--iops=1000") as engine:
        lock_fd = lock_group(group)
        status, body = control.ask("PATCH", "/drive", {"iops": 500})
        assert (status, body["error"]) == (409, f"rate group '{group}': another process keeps it locked")
        os.close(lock_fd)
        control.change("/drive", iops=500)
        lock_fd = lock_group(group)
        assert engine.end() == 0
        os.close(lock_fd)
