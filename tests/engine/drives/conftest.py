"""An image that engines serve one after the other."""

from pathlib import Path

import pytest

from tests.rigs.succession import DISK_BYTES


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(DISK_BYTES))
    return path
