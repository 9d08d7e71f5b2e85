"""The image lock, between open file descriptions and between processes."""

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ringblk.workers.backends.image_lock import ImageLocked, is_image_locked, lock_image
from tests.rigs.child_process import forked_holder

needs_qemu = pytest.mark.skipif(shutil.which("qemu-io") is None, reason="qemu-io is not installed")


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
    with forked_holder():
        os.close(holder)
        with pytest.raises(ImageLocked):
            lock_image(other, read_only=False)
    lock_image(other, read_only=False)
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


def set_byte_lock(fd: int, kind: int, start_bytes: int, length_bytes: int) -> None:
    """As QEMU does, or an older version of ours."""
    fcntl.fcntl(
        fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, start_bytes, length_bytes, 0)
    )


@contextmanager
def qemu_on(image: Path, *, read_only: bool) -> Iterator[None]:
    """A QEMU that has the image open as it has a guest's disk open."""
    command = ["qemu-io", *(["-r"] if read_only else []), "-f", "raw", str(image)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(8) == b"qemu-io>"  # it asks what to do once the image is open
        yield
        process.communicate(b"quit\n")


@needs_qemu
def test_an_image_that_qemu_writes_to_is_refused_to_readers_too(image: Path) -> None:
    with qemu_on(image, read_only=False):
        for read_only in (True, False):
            fd = opened(image)
            with pytest.raises(ImageLocked, match="in use"):
                lock_image(fd, read_only)
            assert is_image_locked(fd)
            os.close(fd)
    fd = opened(image)
    lock_image(fd, read_only=True)
    os.close(fd)


@needs_qemu
def test_an_image_that_qemu_reads_is_there_for_readers(image: Path) -> None:
    with qemu_on(image, read_only=True):
        fd = opened(image)
        lock_image(fd, read_only=True)
        with pytest.raises(ImageLocked):
            lock_image(fd, read_only=False)
        os.close(fd)


@needs_qemu
@pytest.mark.parametrize("read_only", [False, True])
def test_qemu_is_refused_to_write_what_is_locked(image: Path, read_only: bool) -> None:
    fd = opened(image)
    lock_image(fd, read_only)
    done = subprocess.run(
        ["qemu-io", "-f", "raw", "-c", "write 0 512", str(image)], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "lock" in done.stderr
    os.close(fd)


@needs_qemu
def test_qemu_reads_what_is_locked_for_readers(image: Path) -> None:
    fd = opened(image)
    lock_image(fd, read_only=True)
    with qemu_on(image, read_only=True):
        pass
    lock_image(fd, read_only=False)
    assert not is_image_locked(fd)  # its own
    lock_image(fd, read_only=True)  # what an exclusive lock had beside is let go of
    with qemu_on(image, read_only=True):
        pass
    resized = subprocess.run(
        ["qemu-img", "resize", "-q", "-f", "raw", str(image), "8K"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert resized.returncode != 0
    assert "lock" in resized.stderr
    os.close(fd)


def test_a_refused_shared_lock_leaves_nothing_locked(image: Path) -> None:
    qemu, ours, third = opened(image), opened(image), opened(image)
    set_byte_lock(qemu, fcntl.F_RDLCK, 101, 1)
    with pytest.raises(ImageLocked):
        lock_image(ours, read_only=True)
    os.close(qemu)
    lock_image(third, read_only=False)
    os.close(ours)
    os.close(third)


def test_a_reader_that_locks_the_whole_file_is_no_writer(image: Path) -> None:
    older, ours = opened(image), opened(image)
    set_byte_lock(older, fcntl.F_RDLCK, 0, 0)
    lock_image(ours, read_only=True)
    os.close(older)
    os.close(ours)


def test_from_exclusive_to_shared_lets_readers_in(image: Path) -> None:
    holder, reader = opened(image), opened(image)
    lock_image(holder, read_only=False)
    lock_image(holder, read_only=True)
    lock_image(reader, read_only=True)
    os.close(holder)
    os.close(reader)
