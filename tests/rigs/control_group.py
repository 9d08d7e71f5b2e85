"""A folder of cgroup v2, for a test."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def control_group() -> Iterator[Path]:
    """One that is gone afterwards, if no process is left in it; the test is skipped where there is none."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    root = next((Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"), None)
    if root is None:
        pytest.skip("no cgroup v2 here")
    folder = root / f"ringblk-test-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made: {error}")
    try:
        yield folder
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(folder)


def members(folder: Path) -> set[int]:
    """The processes that are in it."""
    return {int(line) for line in (folder / "cgroup.procs").read_text().split()}
