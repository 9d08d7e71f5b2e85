"""What backends say of themselves when an engine asks."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ringblk.workers.backends.answers import DirectIo, StorageIdentity
from ringblk.workers.backends.file import FileBackend
from ringblk.workers.backends.image_lock import ImageLocked
from ringblk.workers.backends.memory import MemoryBackend
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.null import NullBackend
from ringblk.workers.backends.opening import open_image_backend, open_named_backend
from ringblk.workers.backends.python import PythonBackend
from ringblk.workers.sandbox.syscall_filter import FILE_CALLS
from tests.rigs.backends.ram_disk import RamDisk
from tests.rigs.image_file import MIB


def test_one_that_says_nothing_may_block() -> None:
    backend = NativeBackend()
    assert backend.waiting().may_block
    assert not backend.waiting().begins_at_once
    assert (backend.fd, backend.identity(), backend.is_image, backend.outlives_engine) == (
        -1,
        None,
        False,
        True,
    )
    assert (backend.system_calls, backend.reachable_paths) == ("", ())
    assert backend.image_lock() is None


@pytest.mark.parametrize("backend", [MemoryBackend(4096), NullBackend(4096)], ids=["memory", "null"])
def test_memory_keeps_nobody_waiting(backend: NativeBackend) -> None:
    assert (backend.waiting().may_block, backend.waiting().reason) == (False, "the backend is in memory")
    assert backend.direct_io() == DirectIo(False, "no image")
    assert backend.fd == -1


def test_what_is_in_memory_ends_with_the_engine() -> None:
    assert not MemoryBackend(4096).outlives_engine
    assert NullBackend(4096).outlives_engine


def test_a_user_s_own_may_block() -> None:
    backend = PythonBackend(RamDisk(4096))
    waiting = backend.waiting()
    assert (waiting.may_block, waiting.begins_at_once) == (True, False)
    assert waiting.reason == "a backend of a user's own may block"
    assert backend.outlives_engine


def test_a_file_is_locked_by_itself(image: Path) -> None:
    first = open_image_backend(str(image), read_only=False, direct="off")
    second = open_image_backend(str(image), read_only=True, direct="off")
    locks = [backend.image_lock() for backend in (first, second)]
    assert locks[0] is not None
    assert locks[1] is not None
    locks[0].lock()
    with pytest.raises(ImageLocked):
        locks[1].lock()
    first.close()
    locks[1].lock()


def test_a_file_is_known_by_whatever_name(image: Path) -> None:
    other_name = image.with_suffix(".link")
    other_name.hardlink_to(image)
    first, second = FileBackend(image), FileBackend(other_name)
    assert first.identity() == second.identity()
    found = first.identity()
    assert found is not None
    assert (found.kind, found.subject) == ("image", (image.stat().st_dev, image.stat().st_ino))
    assert first.is_image


def test_a_device_is_known_by_its_number(loop_device: Callable[[int, int], Path]) -> None:
    device = loop_device(MIB, 512)
    found = FileBackend(device, direct="off").identity()
    assert isinstance(found, StorageIdentity)
    assert (found.kind, found.subject) == ("device", (device.stat().st_rdev, 0))


def test_a_file_names_its_system_calls_and_is_open(image: Path) -> None:
    backend = FileBackend(image)
    assert (backend.system_calls, backend.reachable_paths) == (FILE_CALLS, ())
    assert backend.fd == backend.fileno()
    assert os.fstat(backend.fd).st_ino == image.stat().st_ino
    backend.close()
    assert backend.fd == -1


def test_why_a_file_is_not_direct(image: Path, shm_path: Path) -> None:
    assert FileBackend(image, direct="off").direct_io() == DirectIo(False, "not asked for")
    backend = FileBackend(image, direct="auto")
    reason = "the file system takes it" if backend.direct else f"refused: {backend.direct_refusal}"
    assert backend.direct_io() == DirectIo(backend.direct, reason)
    assert not FileBackend(image, direct="off").waiting().begins_at_once
    (shm_path / "disk.img").write_bytes(bytes(MIB))
    waiting = FileBackend(shm_path / "disk.img").waiting()
    assert (waiting.may_block, waiting.reason) == (False, "the image is in memory")


def test_a_named_backend_is_opened() -> None:
    assert open_named_backend("null", {"size_bytes": "512"}).size_bytes == 512
