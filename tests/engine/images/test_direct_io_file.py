"""DirectIoFile against a plain file: any sizes, any faults."""

import errno
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringblk.engine.images.direct_io_file import DirectIoFile, DirectIoFileFailed
from ringblk.workers.backends.direct_io import DirectMode

BUFFER_BYTES = 16384  # four blocks: few bytes make many buffers
SIZES = st.one_of(
    st.integers(0, 600), st.integers(0, 3 * BUFFER_BYTES), st.sampled_from([4096, 8192, BUFFER_BYTES])
)
STEPS = st.lists(st.tuples(st.sampled_from(["write", "write", "zeroes", "sync"]), SIZES), max_size=25)


class FaultyFile(DirectIoFile):
    """A DirectIoFile whose writes go through `fault(number of the write, part)`."""

    fault: Callable[[int, memoryview], memoryview] = staticmethod(lambda number, part: part)
    number = -1

    def _write_at(self, part: memoryview, offset_bytes: int) -> int:
        self.number += 1
        return super()._write_at(self.fault(self.number, part), offset_bytes)


def fail_at(failing: int, code: int = errno.EIO) -> Callable[[int, memoryview], memoryview]:
    def fault(number: int, part: memoryview) -> memoryview:
        if number == failing:
            raise OSError(code, os.strerror(code))
        return part

    return fault


def apply(file: DirectIoFile, plain: bytearray, step: tuple[str, int], seed: int) -> None:
    kind, size_bytes = step
    if kind == "write":
        data = random.Random(seed).randbytes(size_bytes)
        assert file.write(data) == size_bytes
        plain += data
    elif kind == "zeroes":
        file.write_zeroes(size_bytes)
        plain += bytes(size_bytes)
    else:
        assert file.sync_all() == len(plain)
        assert file.bytes_synced == len(plain)


@settings(deadline=None, max_examples=50)
@given(steps=STEPS, direct=st.sampled_from(["auto", "off"]))
def test_any_steps_make_the_plain_file(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]], direct: DirectMode
) -> None:
    path = tmp_path_factory.mktemp("file") / "target"
    plain = bytearray()
    synced = 0
    with DirectIoFile(path, direct=direct, buffer_bytes=BUFFER_BYTES) as file:
        for seed, step in enumerate(steps):
            apply(file, plain, step, seed)
            assert file.bytes_written == len(plain)
            assert synced <= file.bytes_synced <= len(plain)
            synced = file.bytes_synced
    assert file.bytes_synced == len(plain)
    assert path.read_bytes() == plain


@settings(deadline=None, max_examples=50)
@given(steps=STEPS, failing=st.integers(0, 12), direct=st.sampled_from(["auto", "off"]))
def test_a_failed_write_surfaces_once_and_nothing_is_lost_silently(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, int]],
    failing: int,
    direct: DirectMode,
) -> None:
    path = tmp_path_factory.mktemp("file") / "target"
    file = FaultyFile(path, direct=direct, buffer_bytes=BUFFER_BYTES)
    file.fault = fail_at(failing)
    plain = bytearray()
    errors: list[BaseException] = []
    for seed, step in enumerate([*steps, ("sync", 0)]):
        wanted = bytearray(plain)
        try:
            apply(file, wanted, step, seed)
            plain = wanted
        except (OSError, DirectIoFileFailed) as error:
            errors.append(error)
            break
    if not errors:
        assert file.failed is None
        file.close()
        assert path.read_bytes() == plain
        return
    assert isinstance(errors[0], OSError)
    assert file.failed is errors[0]
    with pytest.raises(DirectIoFileFailed) as later:
        file.write(b"more")
    assert later.value.__cause__ is errors[0]
    with pytest.raises(DirectIoFileFailed):
        file.sync_all()
    synced = file.bytes_synced
    file.close()  # said so already
    assert file.bytes_synced == synced
    content = path.read_bytes()
    # What is called synced is there (the failing step may have got further than `plain` knows).
    assert content[: min(synced, len(plain))] == plain[:synced]
    assert len(content) <= max(len(plain), synced) + 3 * BUFFER_BYTES


@settings(deadline=None, max_examples=40)
@given(steps=STEPS, seed=st.integers(0, 1000))
def test_short_writes_are_carried_on(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]], seed: int
) -> None:
    path = tmp_path_factory.mktemp("file") / "target"
    chance = random.Random(seed)
    plain = bytearray()
    with FaultyFile(path, buffer_bytes=BUFFER_BYTES) as file:
        block_bytes = file.alignment_bytes

        def shorten(_: int, part: memoryview) -> memoryview:
            if len(part) <= block_bytes:
                return part
            return part[: chance.randrange(1, len(part) // block_bytes + 1) * block_bytes]

        file.fault = shorten
        for number, step in enumerate(steps):
            apply(file, plain, step, number)
    assert path.read_bytes() == plain


def test_the_background_stops_at_the_failed_write(tmp_path: Path) -> None:
    path = tmp_path / "target"
    file = FaultyFile(path, buffer_bytes=BUFFER_BYTES, buffer_count=4)
    gate = threading.Event()

    def fault(number: int, part: memoryview) -> memoryview:
        gate.wait()
        return fail_at(1, errno.ENOSPC)(number, part)

    file.fault = fault
    file.write(b"a" * 4 * BUFFER_BYTES)  # four buffers under way: the second will fail
    gate.set()
    with pytest.raises(OSError, match="No space left"):
        file.sync_all()
    file.close()
    assert path.read_bytes() == b"a" * BUFFER_BYTES
    assert file.bytes_synced == BUFFER_BYTES


def test_bytes_synced_tells_what_is_done_while_writing(tmp_path: Path) -> None:
    with FaultyFile(tmp_path / "target", direct="on", buffer_bytes=BUFFER_BYTES) as file:
        gate, second_started = threading.Event(), threading.Event()

        def fault(number: int, part: memoryview) -> memoryview:
            if number == 1:
                second_started.set()
                gate.wait()
            return part

        file.fault = fault
        file.write(b"b" * 2 * BUFFER_BYTES)
        second_started.wait()
        assert file.bytes_synced == BUFFER_BYTES
        gate.set()
        file.write(b"c")
        assert file.sync_all() == 2 * BUFFER_BYTES + 1


def test_leaving_with_an_exception_abandons(tmp_path: Path) -> None:
    path = tmp_path / "target"
    with pytest.raises(KeyError), DirectIoFile(path, buffer_bytes=BUFFER_BYTES) as file:  # noqa: PT012
        file.write(b"d" * (BUFFER_BYTES + 5))
        raise KeyError
    assert file.closed
    assert path.stat().st_size <= BUFFER_BYTES


def test_leaving_with_an_exception_names_an_unreported_failure(tmp_path: Path) -> None:
    file = FaultyFile(tmp_path / "target", buffer_bytes=BUFFER_BYTES)
    file.fault = fail_at(0)
    with pytest.raises(KeyError) as caught, file:  # noqa: PT012
        file.write(b"e" * BUFFER_BYTES)
        raise KeyError
    assert any("Input/output error" in note for note in caught.value.__notes__)


def test_close_surfaces_an_unreported_failure_and_closes(tmp_path: Path) -> None:
    file = FaultyFile(tmp_path / "target", buffer_bytes=BUFFER_BYTES)
    file.fault = fail_at(0)
    file.write(b"f" * BUFFER_BYTES)
    with pytest.raises(OSError, match="Input/output error"):
        file.close()
    assert file.closed
    file.close()


def test_refused_direct_writes_fall_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "target"
    with FaultyFile(path, buffer_bytes=BUFFER_BYTES) as file:
        assert file.direct
        file.fault = fail_at(0, errno.EINVAL)
        file.write(b"g" * (2 * BUFFER_BYTES + 7))
        assert file.sync_all() == 2 * BUFFER_BYTES + 7
        assert not file.direct
        assert file.fallback_reason is not None
    assert path.read_bytes() == b"g" * (2 * BUFFER_BYTES + 7)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_refused_direct_writes_are_an_error_where_asked_for(tmp_path: Path) -> None:
    file = FaultyFile(tmp_path / "target", direct="on", buffer_bytes=BUFFER_BYTES)
    file.fault = fail_at(0, errno.EINVAL)
    file.write(b"h" * BUFFER_BYTES)
    with pytest.raises(OSError, match="Invalid argument"):
        file.close()


def test_a_refused_flag_falls_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(fd: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("ringblk.workers.backends.direct_open.set_direct", refuse)
    with DirectIoFile(tmp_path / "target", buffer_bytes=BUFFER_BYTES) as file:
        assert not file.direct
        file.write(b"i" * 5)
    assert (tmp_path / "target").read_bytes() == b"iiiii"
    assert "through the page cache" in caplog.text
    with pytest.raises(OSError, match="refused"):
        DirectIoFile(tmp_path / "other", direct="on")


def test_zeroes_are_holes(tmp_path: Path) -> None:
    path = tmp_path / "target"
    with DirectIoFile(path) as file:
        file.write(b"j" * 4096)
        file.write_zeroes(64 << 20)
        file.write(b"k" * 4096)
        file.write_zeroes(64 << 20)
    assert path.stat().st_size == (128 << 20) + 8192
    assert path.stat().st_blocks * 512 < 1 << 20


def test_threads_append_whole_writes(tmp_path: Path) -> None:
    path = tmp_path / "target"
    with DirectIoFile(path, buffer_bytes=BUFFER_BYTES) as file:
        threads = [
            threading.Thread(target=lambda byte=byte: [file.write(bytes([byte]) * 1000) for _ in range(100)])
            for byte in b"lmno"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    content = path.read_bytes()
    pieces = [content[start : start + 1000] for start in range(0, len(content), 1000)]
    assert sorted(pieces) == sorted(bytes([byte]) * 1000 for byte in b"lmno" for _ in range(100))


def test_exclusive_refuses_what_exists(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        DirectIoFile(tmp_path / "target", exclusive=True)
    assert (tmp_path / "target").read_bytes() == b"precious"


def test_a_closed_file_says_so(tmp_path: Path) -> None:
    file = DirectIoFile(tmp_path / "target")
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.write(b"p")


def settle(file: DirectIoFile) -> None:
    """Wait until the background has nothing to do, and ask it for nothing."""
    with file._state:
        file._state.wait_for(lambda: not file._is_draining)


def test_whole_blocks_of_a_slow_writer_are_on_the_disk_without_being_asked_for(tmp_path: Path) -> None:
    with DirectIoFile(tmp_path / "target", direct="on") as file:  # buffers of 1 MiB
        block_bytes = file.alignment_bytes
        for number in range(1, 5):
            file.write(b"q" * (block_bytes + 1))
            settle(file)
            assert file.bytes_synced == number * (block_bytes + 1) // block_bytes * block_bytes
            assert (tmp_path / "target").stat().st_size == file.bytes_synced


def test_what_comes_while_a_write_is_under_way_goes_after_it(tmp_path: Path) -> None:
    file = FaultyFile(tmp_path / "target", direct="on", buffer_bytes=BUFFER_BYTES)
    gate, started = threading.Event(), threading.Event()

    def fault(number: int, part: memoryview) -> memoryview:
        started.set()
        gate.wait()
        return part

    file.fault = fault
    file.write(b"r" * 4096)
    started.wait()
    for _ in range(10):
        file.write(b"s" * 1000)  # more than two blocks, which nobody asks for again
    gate.set()
    settle(file)
    assert file.number == 1  # one write took all that had come
    assert file.bytes_synced == 14096 // file.alignment_bytes * file.alignment_bytes
    file.close()
    assert (tmp_path / "target").read_bytes() == b"r" * 4096 + b"s" * 10_000


def test_flush_writes_whole_blocks_and_syncs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "target"
    with DirectIoFile(path, direct="on") as file:
        synced: list[int] = []
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", synced.append)
            file.write(b"t" * (3 * 4096 + 7))
            file.flush()
            assert file.bytes_synced == path.stat().st_size == 3 * 4096
        assert synced == []
    assert path.read_bytes() == b"t" * (3 * 4096 + 7)


def test_flush_surfaces_a_failed_write(tmp_path: Path) -> None:
    file = FaultyFile(tmp_path / "target", buffer_bytes=BUFFER_BYTES)
    file.fault = fail_at(0)
    file.write(b"u" * 4096)
    with pytest.raises(OSError, match="Input/output error"):
        file.flush()
    with pytest.raises(DirectIoFileFailed):
        file.flush()
    file.close()
