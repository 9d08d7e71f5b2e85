"""A user's object behind PythonBackend: its buffers, its exceptions, its optional methods."""

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import Callable

import pytest

from ringblk.workers.backends.python import PythonBackend

SIZE_BYTES = 1 << 20


class Disk:
    """Does nothing, and notes what it was asked for."""

    size_bytes = SIZE_BYTES
    read_only = False

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []

    def read_at(self, offset_bytes: int, buffer: memoryview) -> None:
        self.calls.append(("read", offset_bytes, len(buffer)))

    def write_at(self, offset_bytes: int, buffer: memoryview) -> None:
        self.calls.append(("write", offset_bytes, len(buffer)))

    def flush(self) -> None:
        self.calls.append(("flush", 0, 0))


class FailingDisk(Disk):
    """Raises whatever it is given, everywhere."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def read_at(self, offset_bytes: int, buffer: memoryview) -> None:
        raise self.error

    def write_at(self, offset_bytes: int, buffer: memoryview) -> None:
        raise self.error

    def flush(self) -> None:
        raise self.error

    def discard(self, offset_bytes: int, size_bytes: int) -> None:
        raise self.error

    def write_zeroes(self, offset_bytes: int, size_bytes: int) -> None:
        raise self.error


CALLS: dict[str, Callable[[PythonBackend], None]] = {
    "read_at": lambda backend: backend.read_at(0, bytearray(512)),
    "write_at": lambda backend: backend.write_at(0, bytes(512)),
    "flush": lambda backend: backend.flush(),
    "discard": lambda backend: backend.discard(0, 512),
    "write_zeroes": lambda backend: backend.write_zeroes(0, 512),
}


def test_attributes() -> None:
    disk = Disk()
    backend = PythonBackend(disk)
    assert backend.backend is disk
    assert (backend.size_bytes, backend.read_only, backend.block_size_bytes) == (SIZE_BYTES, False, 512)


def test_a_call_for_each_range() -> None:
    disk = Disk()
    backend = PythonBackend(disk)
    backend.read_ranges(512, [bytearray(3), bytearray(0), bytearray(509)])
    backend.write_ranges(1024, [bytes(512), bytes(1)], durable=True)
    assert disk.calls == [
        ("read", 512, 3),
        ("read", 515, 509),
        ("write", 1024, 512),
        ("write", 1536, 1),
        ("flush", 0, 0),
    ]


def test_buffers_are_bytes_over_the_callers_memory() -> None:
    class Checking(Disk):
        def read_at(self, offset_bytes: int, buffer: memoryview) -> None:
            assert (buffer.readonly, buffer.format, buffer.ndim, buffer.itemsize) == (False, "B", 1, 1)
            buffer[:] = b"r" * len(buffer)

        def write_at(self, offset_bytes: int, buffer: memoryview) -> None:
            assert buffer.readonly
            assert buffer == b"w" * 5

    backend = PythonBackend(Checking())
    memory = bytearray(7)
    backend.read_at(0, memoryview(memory)[1:6])
    assert memory == b"\0rrrrr\0"
    backend.write_at(0, b"wwwww")


def test_without_optional_methods() -> None:
    disk = Disk()
    backend = PythonBackend(disk)
    backend.start_worker()
    backend.close()
    backend.discard(0, 4096)
    assert disk.calls == []
    backend.write_zeroes(512, 65536 + 512)
    assert disk.calls == [("write", 512, 65536), ("write", 512 + 65536, 512)]


def test_with_optional_methods() -> None:
    class Full(Disk):
        def discard(self, offset_bytes: int, size_bytes: int) -> None:
            self.calls.append(("discard", offset_bytes, size_bytes))

        def write_zeroes(self, offset_bytes: int, size_bytes: int) -> None:
            self.calls.append(("zero", offset_bytes, size_bytes))

        def start_worker(self) -> None:
            self.calls.append(("start", 0, 0))

        def close(self) -> None:
            self.calls.append(("close", 0, 0))

    disk = Full()
    backend = PythonBackend(disk)
    backend.start_worker()
    backend.discard(512, 1024)
    backend.write_zeroes(1024, 2048, may_unmap=True)
    backend.close()
    assert disk.calls == [("start", 0, 0), ("discard", 512, 1024), ("zero", 1024, 2048), ("close", 0, 0)]


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("no such thing"), errno.EIO),
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (OSError("no number"), errno.EIO),
        (OSError(-3, "odd number"), errno.EIO),
        (OSError(1 << 40, "large number"), errno.EIO),
        (SystemExit(0), errno.EIO),
        (KeyboardInterrupt(), errno.EIO),
    ],
    ids=repr,
)
def test_exceptions(
    method: str, error: BaseException, expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    backend = PythonBackend(FailingDisk(error))
    with pytest.raises(OSError, match=os.strerror(expected)) as caught:
        CALLS[method](backend)
    assert caught.value.errno == expected
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert f"FailingDisk.{method}: {type(error).__name__}" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert "raise self.error" in caplog.text


class AnsweringDisk(Disk):
    """Returns something from everywhere."""

    def __init__(self, make_answer: Callable[[], object]) -> None:
        super().__init__()
        self.read_at = self.write_at = self.flush = self.discard = self.write_zeroes = (  # type: ignore[assignment, method-assign]
            lambda *arguments: make_answer()
        )


async def some_coroutine() -> None:
    """Runs only when somebody waits for it."""


@pytest.mark.filterwarnings("error")  # a coroutine that nobody has waited for
@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize(
    ("make_answer", "said"),
    [
        (some_coroutine, "an object of type coroutine"),
        (lambda: (_ for _ in ()), "an object of type generator"),
        (lambda: 100, "100"),
        (lambda: 512, "512"),
        (lambda: True, "True"),
        (lambda: b"data", "an object of type bytes"),
        (asyncio.Future, "an object of type Future"),
    ],
)
def test_what_is_returned_is_an_error(
    method: str, make_answer: Callable[[], object], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        asyncio.set_event_loop(loop)
        backend = PythonBackend(AnsweringDisk(make_answer))
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            CALLS[method](backend)
        asyncio.set_event_loop(None)
    assert f"AnsweringDisk.{method}: TypeError" in caplog.text
    assert f"returned {said}; it must return None, once all is done" in caplog.text


@pytest.mark.parametrize("hook", ["start_worker", "close"])
def test_a_hook_that_returns_something_has_failed(hook: str) -> None:
    disk = Disk()
    setattr(disk, hook, lambda: 0)
    with pytest.raises(TypeError, match="returned 0; it must return None"):
        getattr(PythonBackend(disk), hook)()


def test_close_is_called_once() -> None:
    disk = Disk()
    disk.close = lambda: disk.calls.append(("close", 0, 0))  # type: ignore[attr-defined]
    backend = PythonBackend(disk)
    backend.close()
    backend.close()
    assert disk.calls == [("close", 0, 0)]


def test_a_durable_write_fails_with_its_flush(caplog: pytest.LogCaptureFixture) -> None:
    class NoFlush(Disk):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "full")

    backend = PythonBackend(NoFlush())
    backend.write_at(0, bytes(512))
    with pytest.raises(OSError, match="No space"):
        backend.write_at(0, bytes(512), durable=True)


def test_a_failure_that_repeats_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    backend = PythonBackend(FailingDisk(ValueError("again")))
    for _ in range(120):
        with pytest.raises(OSError, match="Input/output"):
            backend.flush()
    with pytest.raises(OSError, match="Input/output"):
        backend.discard(0, 512)
    messages = [(record.getMessage().split(": ")[1], bool(record.exc_info)) for record in caplog.records]
    worker = f"(worker {os.getpid()})"
    assert messages == [
        (f"ValueError {worker}", True),
        (f"ValueError, 10 times by now {worker}", False),
        (f"ValueError, 100 times by now {worker}", False),
        (f"ValueError {worker}", True),
    ]


def test_log_handler_that_raises(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("log is full")

    monkeypatch.setattr(logging.getLogger("ringblk.workers.backends.python"), "error", fail)
    backend = PythonBackend(FailingDisk(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="No space left"):
        backend.flush()


def test_a_view_that_is_kept_is_released(caplog: pytest.LogCaptureFixture) -> None:
    class Keeping(Disk):
        kept: memoryview

        def read_at(self, offset_bytes: int, buffer: memoryview) -> None:
            self.kept = buffer

    disk = Keeping()
    PythonBackend(disk).read_at(0, bytearray(512))
    with pytest.raises(ValueError, match="released"):
        disk.kept[0] = 1
    assert caplog.records == []


@pytest.mark.parametrize("derive", [lambda view: view[:100], memoryview, lambda view: view.cast("H")])
def test_a_view_that_can_not_be_released_is_reported(
    derive: Callable[[memoryview], memoryview], caplog: pytest.LogCaptureFixture
) -> None:
    class Keeping(Disk):
        def read_at(self, offset_bytes: int, buffer: memoryview) -> None:
            self.kept = derive(buffer)

    disk = Keeping()
    memory = bytearray(512)
    PythonBackend(disk).read_at(0, memory)
    assert "Keeping.read_at: keeps its buffer after it has returned" in caplog.text
    disk.kept.release()


def test_an_exception_beside_a_kept_view_is_still_reported(caplog: pytest.LogCaptureFixture) -> None:
    class Keeping(Disk):
        def read_at(self, offset_bytes: int, buffer: memoryview) -> None:
            self.kept = buffer[:1]
            raise OSError(errno.ENOMEM, "no room")

    disk = Keeping()
    with pytest.raises(OSError, match="Cannot allocate"):
        PythonBackend(disk).read_at(0, bytearray(512))
    assert [record.getMessage().split(": ")[1].split(" (")[0] for record in caplog.records] == [
        "keeps its buffer after it has returned",
        "OSError",
    ]
    disk.kept.release()
