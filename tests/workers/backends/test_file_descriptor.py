"""A backend on a descriptor of the caller's."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from ringblk.workers.backends.file import FileBackend
from ringblk.workers.backends.image_lock import ImageLocked, lock_image
from ringblk.workers.backends.interface import BackendError
from tests.rigs.image_file import MIB, make_image


@pytest.mark.parametrize("by_name", [False, True])
def test_a_descriptor_stays_the_callers(tmp_path: Path, by_name: bool) -> None:
    path = make_image(tmp_path, MIB)
    path.write_bytes(b"o" * MIB)
    fd = os.open(path, os.O_RDWR | os.O_APPEND)
    os.lseek(fd, 100, os.SEEK_SET)
    before = fcntl.fcntl(fd, fcntl.F_GETFL)
    backend = FileBackend(f"/dev/fd/{fd}" if by_name else fd)
    assert path.stat().st_size == backend.size_bytes == MIB
    backend.write_at(4096, b"n" * 512)
    assert path.read_bytes() == b"o" * 4096 + b"n" * 512 + b"o" * (MIB - 4608)
    assert fcntl.fcntl(fd, fcntl.F_GETFL) == before
    assert os.lseek(fd, 0, os.SEEK_CUR) == 100
    backend.close()
    os.close(fd)


def test_the_lock_of_two_backends_on_one_descriptor_is_not_one_lock(tmp_path: Path) -> None:
    fd = os.open(make_image(tmp_path, MIB), os.O_RDWR)
    first, second = FileBackend(fd), FileBackend(fd)
    lock_image(first.fileno(), read_only=False)
    with pytest.raises(ImageLocked):
        lock_image(second.fileno(), read_only=False)
    os.close(fd)


def test_a_descriptor_gives_no_more_than_it_has(tmp_path: Path) -> None:
    path = make_image(tmp_path, MIB)
    reading, writing = os.open(path, os.O_RDONLY), os.open(path, os.O_WRONLY)
    with pytest.raises(BackendError, match=f"/dev/fd/{reading}: can't open it: it is open for reading only"):
        FileBackend(f"/dev/fd/{reading}")
    with pytest.raises(
        BackendError, match=f"descriptor {writing}: can't open it: it is open for writing only"
    ):
        FileBackend(writing, read_only=True)
    assert FileBackend(reading, read_only=True).size_bytes == MIB
    pipe = os.pipe()
    with pytest.raises(BackendError, match="neither a regular file nor a block device"):
        FileBackend(pipe[0], read_only=True)
    with pytest.raises(BackendError, match="Bad file descriptor"):
        FileBackend(777)
    for fd in (reading, writing, *pipe):
        os.close(fd)


def test_a_descriptor_of_what_may_not_be_opened_is_duplicated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fd = os.open(make_image(tmp_path, MIB), os.O_RDWR)
    appending = os.open(tmp_path / "image", os.O_RDWR | os.O_APPEND)

    def refuse_to_open(path: str, flags: int) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse_to_open)
        backend = FileBackend(fd)
        with pytest.raises(BackendError, match="it is open for appending"):
            FileBackend(appending)
    assert "cannot be opened again" in caplog.text
    backend.write_at(512, b"d" * 512)
    backend.close()
    # Not by `fd`, which is direct now as well, and wants memory that is aligned.
    assert (tmp_path / "image").read_bytes()[512:1024] == b"d" * 512
    os.close(fd)
    os.close(appending)
