"""The image lock, between open file descriptions and between processes."""

import os
from pathlib import Path

import pytest

from ringblk.workers.image_lock import ImageLocked, is_image_locked, lock_image


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(4096))
    return path


def opened(path: Path, flags: int = os.O_RDWR) -> int:
    return os.open(path, flags | os.O_CLOEXEC)


@pytest.mark.parametrize(
    ("first_read_only", "second_read_only", "refused"),
    [(False, False, True), (False, True, True), (True, False, True), (True, True, False)],
)
def test_two_openers(image: Path, first_read_only: bool, second_read_only: bool, refused: bool) -> None:
    first, second = opened(image), opened(image)
    lock_image(first, first_read_only)
    if refused:
        with pytest.raises(ImageLocked, match="in use by a running engine"):
            lock_image(second, second_read_only)
        os.close(first)
        lock_image(second, second_read_only)
        os.close(second)
    else:
        lock_image(second, second_read_only)
        os.close(first)
        os.close(second)


def test_read_only_lock_needs_no_writable_descriptor(image: Path) -> None:
    fd = opened(image, os.O_RDONLY)
    lock_image(fd, read_only=True)
    os.close(fd)


def test_closing_another_descriptor_keeps_the_lock(image: Path) -> None:
    holder, other = opened(image), opened(image)
    lock_image(holder, read_only=False)
    os.close(opened(image))  # a process-wide (not OFD) lock would be dropped here
    with pytest.raises(ImageLocked):
        lock_image(other, read_only=True)
    os.close(holder)
    os.close(other)


def test_a_child_holds_the_lock_after_its_parent(image: Path) -> None:
    holder, other = opened(image), opened(image)
    lock_image(holder, read_only=False)
    release_read, release_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(release_write)
        os.read(release_read, 1)
        os._exit(0)
    os.close(holder)
    with pytest.raises(ImageLocked):
        lock_image(other, read_only=False)
    os.close(release_write)
    os.waitpid(child, 0)
    lock_image(other, read_only=False)
    os.close(release_read)
    os.close(other)


def test_asking_takes_no_lock(image: Path) -> None:
    holder, other = opened(image), opened(image)
    assert not is_image_locked(other)
    lock_image(holder, read_only=True)
    assert is_image_locked(other)
    lock_image(holder, read_only=False)
    assert is_image_locked(other)
    assert not is_image_locked(holder)
    os.close(holder)
    os.close(other)
