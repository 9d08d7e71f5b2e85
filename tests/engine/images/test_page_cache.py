"""An import leaves the page cache alone; a plain copy fills it.

The promise is 16 MiB for 2 GiB. RINGBLK_TEST_IMAGE_MIB=2048 tests just that; less by default, because
writing and copying 2 GiB takes a busy disk half a minute.
"""

import os
import shutil
from pathlib import Path

import pytest

from ringblk.engine.images.copy import copy_to_file
from ringblk.engine.images.source import open_source
from tests.rigs.page_cache import cached_bytes

SIZE_MIB = int(os.environ.get("RINGBLK_TEST_IMAGE_MIB", "128"))
SIZE_BYTES = SIZE_MIB << 20
LIMIT_BYTES = SIZE_BYTES // 128  # 16 MiB of 2 GiB


class NoWatcher:
    def update(self, progress_bytes: int, total_bytes: int | None, bytes_synced: int) -> None:
        pass


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.raw"
    piece = os.urandom(1 << 20)
    with path.open("wb") as file:
        for _ in range(SIZE_MIB):
            file.write(piece)
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if cached_bytes(path) > LIMIT_BYTES:
        pytest.skip("this file system keeps its files in memory")
    return path


@pytest.mark.parametrize("verify", [False, True])
def test_an_import_leaves_the_page_cache_alone(tmp_path: Path, source: Path, verify: bool) -> None:
    target = tmp_path / "target.raw"
    opened = open_source(str(source), "raw")
    copy_to_file(opened, target, "raw", NoWatcher(), replace=False, verify=verify)
    opened.close()
    assert target.stat().st_size == SIZE_BYTES
    assert cached_bytes(source) + cached_bytes(target) <= LIMIT_BYTES


def test_a_plain_copy_does_not(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "target.raw"
    with source.open("rb") as reading, target.open("wb") as writing:  # copyfile may clone or splice
        shutil.copyfileobj(reading, writing, 1 << 20)
    assert cached_bytes(source) + cached_bytes(target) >= SIZE_BYTES
