"""Every backend against a bytearray, whatever a request's offset, length and memory."""

import importlib.util
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringblk.workers.backends import direct_io
from ringblk.workers.backends.direct_io import Alignment, DirectMode
from ringblk.workers.backends.file import FileBackend
from ringblk.workers.backends.memory import MemoryBackend
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.null import NullBackend
from ringblk.workers.backends.python import PythonBackend
from tests.rigs.image_file import make_image

SIZE_BYTES = 96 << 10
ARENA_BYTES = 128 << 10
UNTOUCHED = 0xA5
ARENA = mmap.mmap(-1, ARENA_BYTES)


class Operation(NamedTuple):
    """A request: `pieces` are (gap before it, length) of each range in the arena."""

    kind: str
    offset_bytes: int
    pieces: list[tuple[int, int]]
    flag: bool
    seed: int


def near(limit: int) -> st.SearchStrategy[int]:
    """Numbers up to a limit: multiples of usual block sizes more often than others."""
    return st.one_of(
        st.integers(0, limit // 4096).map(lambda n: n * 4096),
        st.integers(0, limit // 512).map(lambda n: n * 512),
        st.integers(0, limit),
    )


operations = st.builds(
    Operation,
    st.sampled_from(["read", "write", "write", "zero", "discard", "flush"]),
    near(SIZE_BYTES),
    st.lists(st.tuples(st.sampled_from([0, 0, 1, 3, 512, 4095, 4096]), near(16 << 10)), max_size=4),
    st.booleans(),
    st.integers(0, 255),
)


def carve(operation: Operation) -> list[tuple[int, int]]:
    """The operation's ranges as (start, length) in the arena, cut to what the drive holds."""
    start = 0
    left = SIZE_BYTES - operation.offset_bytes
    pieces = []
    for gap, length in operation.pieces:
        start += gap
        length = min(length, left)
        pieces.append((start, length))
        start += length
        left -= length
    return pieces


def run(backend: NativeBackend, operation: Operation, model: bytearray) -> None:
    """Do the operation on both and compare; what lies beside the ranges must stay as it is."""
    pieces = carve(operation)
    offset = operation.offset_bytes
    length = sum(length for _, length in pieces)
    with memoryview(ARENA) as arena:
        buffers = [arena[start : start + length] for start, length in pieces]
        if operation.kind == "write":
            data = bytes((operation.seed + i * 7 + i // 251) & 0xFF for i in range(length))
            done = 0
            for buffer in buffers:
                buffer[:] = data[done : done + len(buffer)]
                done += len(buffer)
            backend.write_ranges(offset, buffers, durable=operation.flag)
            model[offset : offset + length] = data
        elif operation.kind == "read":
            expected = bytearray([UNTOUCHED]) * ARENA_BYTES
            arena[:] = expected
            backend.read_ranges(offset, buffers)
            done = offset
            for start, piece_length in pieces:
                expected[start : start + piece_length] = model[done : done + piece_length]
                done += piece_length
            assert arena == expected
        for buffer in buffers:
            buffer.release()
    if operation.kind == "zero":
        backend.write_zeroes(offset, length, may_unmap=operation.flag)
        model[offset : offset + length] = bytes(length)
    elif operation.kind == "discard":
        backend.discard(offset, length)
        after = bytearray(SIZE_BYTES)
        backend.read_at(0, after)
        model[offset : offset + length] = after[offset : offset + length]
    elif operation.kind == "flush":
        backend.flush()


def compare_with_model(backend: NativeBackend) -> None:
    """Run many random lists of operations on a backend of SIZE_BYTES."""

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(operations, min_size=1, max_size=12))
    def check(todo: list[Operation]) -> None:
        model = bytearray(i * 13 & 0xFF for i in range(SIZE_BYTES))
        backend.write_at(0, model)
        for operation in todo:
            run(backend, operation, model)
        after = bytearray(SIZE_BYTES)
        backend.read_at(0, after)
        assert after == model

    assert backend.size_bytes == SIZE_BYTES
    check()


@pytest.mark.parametrize("direct", ["auto", "off"])
def test_file_on_disk(tmp_path: Path, direct: DirectMode) -> None:
    compare_with_model(FileBackend(make_image(tmp_path, SIZE_BYTES), direct=direct))


@pytest.mark.parametrize("alignment", [Alignment(512, 512), Alignment(4096, 4), Alignment(4096, 4096)])
def test_file_with_alignment(shm_path: Path, monkeypatch: pytest.MonkeyPatch, alignment: Alignment) -> None:
    monkeypatch.setattr(direct_io, "set_direct", lambda fd: alignment)
    backend = FileBackend(make_image(shm_path, SIZE_BYTES), direct="on")
    assert backend.direct
    assert backend.block_size_bytes == alignment.offset_bytes
    assert backend.memory_alignment_bytes == alignment.memory_bytes
    compare_with_model(backend)


@pytest.mark.parametrize("direct", ["on", "off"])
@pytest.mark.parametrize("block_bytes", [512, 4096])
def test_loop_device(loop_device: Callable[[int, int], Path], block_bytes: int, direct: DirectMode) -> None:
    backend = FileBackend(loop_device(SIZE_BYTES, block_bytes), direct=direct)
    assert backend.block_size_bytes == block_bytes
    try:
        compare_with_model(backend)
    finally:
        backend.close()


def test_file_system_without_fallocate(mount: Callable[..., Path]) -> None:
    backend = FileBackend(make_image(mount("ramfs"), SIZE_BYTES), direct="auto")
    assert not backend.direct
    try:
        compare_with_model(backend)
    finally:
        backend.close()


def test_memory() -> None:
    compare_with_model(MemoryBackend(SIZE_BYTES))


def test_python_example() -> None:
    path = Path(__file__).parents[2] / "rigs" / "backends" / "ram_disk.py"
    spec = importlib.util.spec_from_file_location("ram_disk", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    compare_with_model(PythonBackend(module.RamDisk(SIZE_BYTES)))


def test_null() -> None:
    backend = NullBackend(1 << 40)
    data = bytearray(b"x" * 5000)
    backend.write_at((1 << 40) - 5000, data)
    backend.read_at((1 << 40) - 5000, data)
    assert data == bytes(5000)
    backend.write_zeroes(0, 1 << 40)
    backend.discard(0, 1 << 40)
    backend.flush()


@pytest.mark.parametrize("backend", [MemoryBackend(4096), NullBackend(4096)], ids=["memory", "null"])
def test_outside(backend: NativeBackend) -> None:
    for offset, length in [(4096, 1), (0, 4097), (2**64 - 1, 2), (4095, 2)]:
        with pytest.raises(ValueError, match="outside"):
            backend.read_at(offset, bytearray(length))
        with pytest.raises(ValueError, match="outside"):
            backend.write_at(offset, bytes(length))
        with pytest.raises(ValueError, match="outside"):
            backend.write_zeroes(offset, length)
        with pytest.raises(ValueError, match="outside"):
            backend.discard(offset, length)
    backend.read_at(4096, bytearray(0))


def test_base_class_does_nothing() -> None:
    with pytest.raises(OSError, match="not supported"):
        NativeBackend().read_at(0, bytearray(0))


def test_too_many_ranges() -> None:
    backend = MemoryBackend(4096)
    buffers = [bytearray(1) for _ in range(1025)]
    with pytest.raises(ValueError, match="1024"):
        backend.read_ranges(0, buffers)
    backend.write_ranges(0, [bytes([i % 251]) for i in range(1024)])
    backend.read_ranges(0, buffers[:1024])
    assert b"".join(buffers[:1024]) == bytes(i % 251 for i in range(1024))


def test_read_only_buffer_is_not_read_into() -> None:
    with pytest.raises(BufferError):
        MemoryBackend(4096).read_at(0, bytes(512))  # type: ignore[arg-type, unused-ignore]
