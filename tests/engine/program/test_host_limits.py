"""A host that has no more of something: room, descriptors, shared memory, a file's end, a working disk.

The row "A host I/O error" for the image; the rest is said when the engine starts, or ends one session.
"""

import contextlib
import ctypes
import errno
import itertools
import os
import resource
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from ringblk.engine.frontend.request import BackendGone, BackendRefused
from tests.rigs.child_process import ends_with_tests
from tests.rigs.engine_rig import (
    MEMORY,
    PROGRAM,
    Engine,
    EngineWithWorkers,
    RawFrontend,
    RawQueue,
    eventually,
    raw_frontend,
)
from tests.rigs.inline_device import DISCARD, FLUSH, IN, IOERR, OK, OUT
from tests.rigs.stalling_file import StallingFile, stalling_file

DISK_BYTES = 4 << 20
IO_ENGINES = pytest.mark.parametrize("io_engine", ["psync", "io_uring", "sync"])
PAGE = 4096
FULL_BYTES = 1 << 20


@pytest.fixture
def small_file_system(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={FULL_BYTES}".encode()) < 0:
        pytest.skip(f"no file system may be mounted here: {os.strerror(ctypes.get_errno())}")
    yield folder
    libc.umount2(os.fsencode(folder), 2)  # MNT_DETACH


@pytest.fixture
def failing_file(tmp_path: Path) -> Iterator[StallingFile]:
    with stalling_file(tmp_path, DISK_BYTES) as file:
        yield file


@contextlib.contextmanager
def served(image: Path, io_engine: str, *options: str) -> Iterator[tuple[Engine, RawQueue]]:
    """An engine on the image, of which no process dies, and a queue."""
    kind = (f"--io-engine={io_engine}", "--workers=1", *options)
    with EngineWithWorkers(f"--blk-file={image}", *kind) as engine, raw_frontend(engine) as frontend:
        children = engine.children()
        yield engine, frontend.queues[0]
        assert engine.children() == children


def sparse_image(folder: Path) -> Path:
    image = folder / "disk.img"
    image.touch()
    os.truncate(image, DISK_BYTES)
    return image


def write(queue: RawQueue, offset_bytes: int, value: int) -> int:
    return queue.request(OUT, offset_bytes // 512, data=bytes([value]) * PAGE)[0]


def read(queue: RawQueue, offset_bytes: int) -> tuple[int, bytes]:
    return queue.request(IN, offset_bytes // 512, read_bytes=PAGE)


# The image.


@IO_ENGINES
def test_a_full_file_system(small_file_system: Path, io_engine: str) -> None:
    """A host I/O error, ENOSPC: IOERR and a log line; where there is room again, so are writes."""
    with served(sparse_image(small_file_system), io_engine) as (engine, queue):
        filling = small_file_system / "filling"
        assert write(queue, 0, 1) == OK
        with contextlib.suppress(OSError):
            filling.write_bytes(bytes(FULL_BYTES))
        assert write(queue, 1 << 20, 2) == IOERR
        eventually(lambda: "host I/O error ENOSPC" in engine.log(), "the log line")
        assert write(queue, 0, 3) == OK  # there is a place for it
        assert read(queue, 0) == (OK, b"\3" * PAGE)
        assert read(queue, 1 << 20) == (OK, bytes(PAGE))
        assert queue.request(FLUSH)[0] == OK
        filling.unlink()
        assert write(queue, 1 << 20, 4) == OK
        assert read(queue, 1 << 20) == (OK, b"\4" * PAGE)


@IO_ENGINES
def test_a_full_file_system_that_the_guest_makes_room_in(small_file_system: Path, io_engine: str) -> None:
    """A host I/O error, ENOSPC: what the guest discards can be written elsewhere."""
    with served(sparse_image(small_file_system), io_engine) as (_, queue):
        offsets = range(0, 2 * FULL_BYTES, PAGE)
        full = next(offset for offset in offsets if write(queue, offset, 1) == IOERR)
        assert 0 < full <= FULL_BYTES
        segment = (0).to_bytes(8, "little") + (full // 512).to_bytes(4, "little") + bytes(4)
        assert queue.request(DISCARD, data=segment)[0] == OK
        assert write(queue, full, 2) == OK
        assert read(queue, full) == (OK, b"\2" * PAGE)


@IO_ENGINES
def test_a_file_that_may_not_grow(tmp_path: Path, io_engine: str) -> None:
    """A host I/O error, EFBIG: a limit on file sizes, as a quota would be, kills nobody."""
    with served(sparse_image(tmp_path), io_engine) as (engine, queue):
        (pid,) = engine.children() if io_engine == "sync" else (engine.children() - {dispatcher_of(engine)})
        former = resource.prlimit(pid, resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
        assert write(queue, 0, 1) == OK
        assert write(queue, 2 << 20, 2) == IOERR
        eventually(lambda: "host I/O error EFBIG" in engine.log(), "the log line")
        resource.prlimit(pid, resource.RLIMIT_FSIZE, former)
        assert write(queue, 2 << 20, 3) == OK
        assert read(queue, 2 << 20) == (OK, b"\3" * PAGE)


def dispatcher_of(engine: Engine) -> int:
    (pid,) = (
        pid for pid in engine.children() if Path(f"/proc/{pid}/comm").read_text().strip() == "rb-dispatcher"
    )
    return pid


@IO_ENGINES
@pytest.mark.parametrize("direct", ["auto", "off"])
def test_a_file_that_is_truncated(tmp_path: Path, io_engine: str, direct: str) -> None:
    """A host I/O error: reads past the new end fail; writes there make the file longer again."""
    image = sparse_image(tmp_path)
    with served(image, io_engine, f"--direct={direct}") as (engine, queue):
        assert write(queue, 2 << 20, 1) == OK
        os.truncate(image, 1 << 20)
        assert read(queue, 2 << 20)[0] == IOERR
        assert queue.request(IN, (1 << 20) // 512 - 4, read_bytes=PAGE)[0] == IOERR  # across the end
        eventually(lambda: "host I/O error EIO" in engine.log(), "the log line")
        assert read(queue, (1 << 20) - PAGE) == (OK, bytes(PAGE))
        assert write(queue, 2 << 20, 2) == OK
        assert image.stat().st_size == (2 << 20) + PAGE
        assert read(queue, 2 << 20) == (OK, b"\2" * PAGE)
        assert read(queue, 1 << 20) == (OK, bytes(PAGE))  # a hole now
        assert read(queue, 3 << 20)[0] == IOERR


@IO_ENGINES
def test_a_disk_that_fails(failing_file: StallingFile, io_engine: str) -> None:
    """A host I/O error, EIO of reads, writes and flushes: each an IOERR; the disk back, all is well."""
    with served(failing_file.path, io_engine) as (engine, queue):
        assert write(queue, 0, 1) == OK
        failing_file.failure = errno.EIO
        assert write(queue, 0, 2) == IOERR
        assert read(queue, 0)[0] == IOERR
        assert queue.request(FLUSH)[0] == IOERR
        eventually(lambda: "host I/O error EIO" in engine.log(), "the log line")
        failing_file.failure = 0
        assert read(queue, 0) == (OK, b"\1" * PAGE)
        assert write(queue, 0, 3) == OK
        assert queue.request(FLUSH)[0] == OK
        assert failing_file.content[:PAGE] == b"\3" * PAGE


# Descriptors.


def test_too_few_descriptors_at_the_start(tmp_path: Path) -> None:
    """An engine that could run out does not start."""
    image = sparse_image(tmp_path)
    ended = subprocess.run(
        ends_with_tests(
            ["prlimit", "--nofile=60:60", PROGRAM, f"--socket-path={tmp_path / 's'}", f"--blk-file={image}"]
        ),
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("vhost-user-ringblk: only 60 files may be open, 4 workers and 1 queues can need ")
    assert "ulimit -Hn" in line


def test_a_soft_limit_is_raised(tmp_path: Path) -> None:
    image = sparse_image(tmp_path)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    prepare = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (min(64, hard), hard))
    with (
        EngineWithWorkers(f"--blk-file={image}", "--num-queues=8", prepare=prepare) as engine,
        raw_frontend(engine, num_queues=8) as frontend,
    ):
        assert [read(queue, 0)[0] for queue in frontend.queues] == [OK] * 8


def limit_descriptors(engine: Engine, limit: int) -> tuple[int, int]:
    """Let the supervisor open none from this number on; the former limit."""
    _, hard = resource.prlimit(engine.process.pid, resource.RLIMIT_NOFILE)
    return resource.prlimit(engine.process.pid, resource.RLIMIT_NOFILE, (limit, hard))


def fewer_descriptors(engine: Engine, spare_count: int) -> tuple[int, int]:
    """Let the supervisor open only so many more; the former limit."""
    pid = engine.process.pid
    used = {int(fd) for fd in os.listdir(f"/proc/{pid}/fd")}
    free = (fd for fd in itertools.count() if fd not in used)
    return limit_descriptors(engine, next(itertools.islice(free, spare_count, None)))


def test_no_descriptor_for_a_connection(tmp_path: Path) -> None:
    """A front end that cannot be taken waits; the engine says so and lives."""
    with EngineWithWorkers(f"--blk-file={sparse_image(tmp_path)}") as engine:
        children = engine.children()
        former = limit_descriptors(engine, 3)  # has them all
        with RawFrontend(engine) as frontend:
            eventually(lambda: "cannot take a front end's connection: Too many" in engine.log(), "the line")
            resource.prlimit(engine.process.pid, resource.RLIMIT_NOFILE, former)
            frontend.set_up()
            assert read(frontend.queues[0], 0) == (OK, bytes(PAGE))
        assert engine.children() == children


@pytest.mark.parametrize("spare_count", range(1, 9))
def test_no_descriptors_for_what_a_front_end_sends(tmp_path: Path, spare_count: int) -> None:
    """That session ends with a clear line; with room again the next one is served."""
    with EngineWithWorkers(f"--blk-file={sparse_image(tmp_path)}") as engine:
        children = engine.children()
        with RawFrontend(engine, cuts=[0x40000 + 0x1000 * index for index in range(7)]) as frontend:
            frontend.negotiate()
            former = fewer_descriptors(engine, spare_count)
            table = [(region, frontend.ram.fd) for region in frontend.ram.regions]
            log_bytes = len(engine.log())
            with contextlib.suppress(BackendGone, BackendRefused):
                frontend.connection.set_mem_table(table)
                frontend.start_queue(0)
        ends = ("front end has disconnected", "session ends")
        eventually(lambda: any(end in engine.log()[log_bytes:] for end in ends), "the end of the session")
        resource.prlimit(engine.process.pid, resource.RLIMIT_NOFILE, former)
        with raw_frontend(engine) as frontend:
            assert read(frontend.queues[0], 0) == (OK, bytes(PAGE))
        assert engine.children() == children
        assert "Traceback" not in engine.log()


# Shared memory.


def in_small_shared_memory(size: str) -> list[str]:
    """The program, where so much shared memory is all there is; skips the test where that cannot be had."""
    inner = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    tried = subprocess.run(
        ["unshare", "--mount", "sh", "-c", inner, "sh", "true"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        pytest.skip(f"no mount namespace of one's own: {tried.stderr.strip()}")
    return ["unshare", "--mount", "sh", "-c", inner, "sh", PROGRAM]


def test_no_room_for_the_segment(tmp_path: Path) -> None:
    """What a drive at rest needs is there from the start, or the engine does not start."""
    image = sparse_image(tmp_path)
    command = [*in_small_shared_memory("4k"), f"--socket-path={tmp_path / 's'}", f"--blk-file={image}"]
    ended = subprocess.run(
        ends_with_tests(command), stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "cannot create shared memory segment ringblk-engine-" in line
    assert "bytes: No space left on device; make room in /dev/shm" in line


def test_no_room_for_a_queue() -> None:
    """What a queue needs is there before it starts, or it does not: no SIGBUS comes later."""
    with Engine(*MEMORY, program=in_small_shared_memory("64k")) as engine:
        with RawFrontend(engine) as frontend:
            frontend.negotiate()
            frontend.add_memory()
            with pytest.raises(BackendRefused):
                frontend.start_queue(0)
        line = "bytes of shared memory: No space left on device; make room in /dev/shm"
        eventually(lambda: "no queue can start: " in engine.log() and line in engine.log(), line)
        (dispatcher,) = engine.children()
        remount = ["mount", "-o", "remount,size=16m", "/dev/shm"]
        enter = ["nsenter", f"--target={engine.process.pid}", "--mount", "--root"]
        subprocess.run([*enter, *remount], check=True)
        with raw_frontend(engine) as frontend:
            assert read(frontend.queues[0], 0) == (OK, bytes(PAGE))
        assert engine.children() == {dispatcher}
