"""Space that a file has before it is written to, where its file system can give it, and where it cannot."""

import os
from pathlib import Path

import pytest

from ringblk.workers.layers import given_space


def file_with_space(path: Path) -> tuple[int, bytes]:
    """Its blocks in bytes, and its content."""
    with path.open("w+b") as file:
        given_space.give_space(file.fileno(), 8192, 100_000)
        file.flush()
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_blocks * 512, path.read_bytes()


def test_zeroes_are_written_where_space_cannot_be_given(
    shm_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(given_space, "can_give_space", lambda fd, size_bytes: False)
    taken_bytes, content = file_with_space(shm_path / "file")
    assert content == bytes(100_000)
    assert taken_bytes >= 100_000


def test_no_more_is_given_than_was_asked_for(shm_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def give(fd: int, size_bytes: int) -> bool:
        os.posix_fallocate(fd, 0, size_bytes)
        return True

    monkeypatch.setattr(given_space, "can_give_space", give)
    taken_bytes, content = file_with_space(shm_path / "file")
    assert not any(content)
    assert 8192 <= taken_bytes < 100_000
