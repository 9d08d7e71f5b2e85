"""A front end in programs as they are: threads, forks, mistakes, engines that fail."""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringblk import BackendGone, Frontend, RequestType, engine_command
from ringblk.engine.frontend.memory import FrontendMemory
from tests.rigs.engine_rig import DEADLINE_S, eventually

DISK_BYTES = 4 << 20
CHUNK_BYTES = 4096


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(DISK_BYTES))
    return path


@pytest.fixture
def disk(image: Path) -> Iterator[Frontend]:
    command = engine_command(f"--blk-file={image}", "--num-queues=4")
    with Frontend(command, num_queues=4, request_timeout_s=DEADLINE_S) as frontend:
        yield frontend


# Threads.


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Python goes from thread to thread as often as it can."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before_s)


def run_threads(*bodies: Callable[[], object]) -> None:
    """Run side by side to the end; raises what one raised."""
    failures: list[BaseException] = []

    def run(body: Callable[[], object]) -> None:
        try:
            body()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    if failures:
        raise failures[0]


@pytest.mark.usefixtures("quick_switches")
def test_threads_never_get_the_same_memory() -> None:
    memory = FrontendMemory(1 << 16, 1 << 32)

    def take_and_give(number: int) -> None:
        for step in range(3000):
            size_bytes = 64 * (1 + (step * number) % 7)
            with memory.allocate(size_bytes, 64) as buffer:
                buffer.view[:] = bytes([number]) * size_bytes
                assert bytes(buffer) == bytes([number]) * size_bytes

    run_threads(*(lambda number=number: take_and_give(number) for number in range(1, 5)))
    assert memory.free_bytes == memory.size_bytes
    with memory.allocate(memory.size_bytes, 64):
        pass  # in one piece
    memory.close()


@pytest.mark.usefixtures("quick_switches")
def test_threads_with_a_queue_each_read_their_own_data(disk: Frontend) -> None:
    def write_and_read(number: int) -> None:
        for step in range(100):
            offset_bytes = CHUNK_BYTES * (4 * step + number)
            data = bytes([number + 1]) * CHUNK_BYTES
            disk.write(offset_bytes, data, queue_index=number)
            assert disk.read(offset_bytes, CHUNK_BYTES, queue_index=number) == data

    run_threads(*(lambda number=number: write_and_read(number) for number in range(4)))


@pytest.mark.usefixtures("quick_switches")
def test_threads_ask_the_back_end_one_after_the_other(disk: Frontend) -> None:
    def ask() -> None:
        for step in range(50):
            assert disk.refresh_config().capacity == DISK_BYTES // 512
            disk.set_write_cache(step % 2 == 0)

    run_threads(*[ask] * 4)


def test_a_thread_that_waits_learns_of_the_end(image: Path) -> None:
    command = engine_command(f"--blk-file={image}", "--iops=1", "--num-queues=2")
    disk = Frontend(command, num_queues=2)
    waits = threading.Event()

    def wait() -> None:
        with contextlib.suppress(BackendGone, ValueError):
            while True:
                waits.set()
                disk.read(0, 512, queue_index=1)

    thread = threading.Thread(target=wait)
    thread.start()
    waits.wait(DEADLINE_S)
    disk.close()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


# Forks.


def in_child(body: Callable[[], object]) -> None:
    """Run in a forked child, which must end well, and wait for it."""
    pid = os.fork()
    if pid == 0:
        try:
            body()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def use_in_child(disk: Frontend, body: Callable[[], object]) -> None:
    in_child(body)
    disk.write(0, b"p" * 512)
    assert disk.read(0, 512) == b"p" * 512
    disk.set_write_cache(True)


def test_a_forked_child_that_closes_leaves_the_parent_alone(disk: Frontend) -> None:
    use_in_child(disk, disk.close)


def test_a_forked_child_that_drops_it_leaves_the_parent_alone(image: Path) -> None:
    command = [part.replace("--fd={fd}", "--socket-path={socket_path}") for part in engine_command()]
    with Frontend([*command, f"--blk-file={image}"], request_timeout_s=DEADLINE_S) as disk:
        assert disk.backend_pid is not None

        def drop() -> None:
            import atexit

            atexit._run_exitfuncs()

        use_in_child(disk, drop)
        os.kill(disk.backend_pid, 0)


def test_a_forked_child_can_do_nothing_with_it(disk: Frontend) -> None:
    parent_pid = os.getpid()

    def use() -> None:
        for ask in (lambda: disk.read(0, 512), disk.submit_flush, disk.refresh_config, disk.reconnect):
            with pytest.raises(ValueError, match=f"belongs to process {parent_pid}"):
                ask()

    use_in_child(disk, use)


def test_a_forked_child_does_not_keep_the_session(image: Path) -> None:
    """The engine ends with the front end, although a child that was forked meanwhile lives on."""
    disk = Frontend(engine_command(f"--blk-file={image}"), request_timeout_s=DEADLINE_S)
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        theirs.send(b"1")
        theirs.recv(1)  # until the parent is done
        os._exit(0)
    theirs.close()
    ours.recv(1)
    socket_inode = os.stat(f"/proc/self/fd/{disk._session.connection.socket.fileno()}").st_ino
    inodes = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            inodes.add(os.stat(f"/proc/{pid}/fd/{fd}").st_ino)
    assert socket_inode not in inodes
    disk.close()
    ours.close()
    os.waitpid(pid, 0)


# Mistakes.

MISTAKES: dict[str, Callable[[Frontend], object]] = {
    "a write of 513 bytes": lambda disk: disk.write(0, bytes(513)),
    "a write of 1 MiB and a byte": lambda disk: disk.write(0, bytes((1 << 20) + 1)),
    "a write at 1": lambda disk: disk.write(1, bytes(512)),
    "a write before the beginning": lambda disk: disk.write(-512, bytes(512)),
    "a write across the end": lambda disk: disk.write(DISK_BYTES - 512, bytes(1024)),
    "a long write across the end": lambda disk: disk.write(DISK_BYTES - (2 << 20), bytes(3 << 20)),
    "a read of 100 bytes": lambda disk: disk.read(0, 100),
    "a read of less than nothing": lambda disk: disk.read(0, -512),
    "a read past the end": lambda disk: disk.read(DISK_BYTES, 512),
    "a read past all ends": lambda disk: disk.read(1 << 80, 512),
    "a discard of 513 bytes": lambda disk: disk.discard(0, 513),
    "a discard across the end": lambda disk: disk.discard(512, DISK_BYTES),
    "a discard of less than nothing": lambda disk: disk.discard(1024, -512),
    "zeroes across the end": lambda disk: disk.write_zeroes(0, DISK_BYTES + 512),
    "zeroes at 511": lambda disk: disk.write_zeroes(511, 512),
    "a buffer of 513 bytes": lambda disk: disk.submit_write(0, disk.allocate(513)),
    "a buffer past the end": lambda disk: disk.submit_read(DISK_BYTES, disk.allocate(512)),
    "a batch with a mistake at its end": lambda disk: disk.submit_many(
        [(RequestType.OUT, 0, disk.allocate(512)), (RequestType.OUT, -512, disk.allocate(512))]
    ),
    "a batch of flushes": lambda disk: disk.submit_many([(RequestType.FLUSH, 0, disk.allocate(512))]),
    "a queue that is not there": lambda disk: disk.read(0, 512, queue_index=4),
    "a queue below 0": lambda disk: disk.submit_flush(queue_index=-1),
    "a token of no queue": lambda disk: disk.wait(9 << 48),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_a_value_error_and_nothing_is_sent(disk: Frontend, image: Path, mistake: str) -> None:
    disk.write(0, b"x" * DISK_BYTES)
    with pytest.raises(ValueError):  # noqa: PT011  # each says what it is about in its own words
        MISTAKES[mistake](disk)
    assert [disk.inflight_count(queue_index=index) for index in range(4)] == [0] * 4
    assert image.read_bytes() == b"x" * DISK_BYTES


USES: dict[str, Callable[[Frontend], object]] = {
    "read": lambda disk: disk.read(0, 512),
    "write": lambda disk: disk.write(0, bytes(512)),
    "flush": lambda disk: disk.flush(),
    "discard": lambda disk: disk.discard(0, 512),
    "get_id": lambda disk: disk.get_id(),
    "allocate": lambda disk: disk.allocate(512),
    "submit_flush": lambda disk: disk.submit_flush(),
    "poll": lambda disk: disk.poll(),
    "wait": lambda disk: disk.wait(0),
    "inflight_count": lambda disk: disk.inflight_count(),
    "set_write_cache": lambda disk: disk.set_write_cache(True),
    "refresh_config": lambda disk: disk.refresh_config(),
    "reconnect": lambda disk: disk.reconnect(),
}


@pytest.mark.parametrize("use", USES)
def test_use_after_close_is_a_value_error(image: Path, use: str) -> None:
    disk = Frontend(engine_command(f"--blk-file={image}"), request_timeout_s=DEADLINE_S)
    kept = memoryview(disk.allocate(512))  # its memory stays mapped
    disk.close()
    disk.close()
    with pytest.raises(ValueError, match="the front end is closed"):
        USES[use](disk)
    del kept


# Time.

TIMEOUT_S = 0.3


def test_a_silent_back_end_costs_no_more_than_the_timeout(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(0)
        began_s = time.monotonic()
        with pytest.raises(TimeoutError):
            Frontend(path, request_timeout_s=TIMEOUT_S)
        assert time.monotonic() - began_s < 10  # 30 s if it is not bounded
        with contextlib.ExitStack() as waiting:
            for _ in range(2):  # now nobody gets in any more
                waiting.enter_context(socket.socket(socket.AF_UNIX)).setblocking(False)
            with pytest.raises(TimeoutError):
                Frontend(path, request_timeout_s=TIMEOUT_S)
        assert time.monotonic() - began_s < 20


@pytest.mark.parametrize("way", ["{fd}", "{listen_fd}", "{socket_path}"])
def test_a_program_that_does_not_begin_costs_no_more_than_the_timeout(way: str) -> None:
    began_s = time.monotonic()
    with pytest.raises(TimeoutError):
        Frontend([sys.executable, "-c", "import time; time.sleep(1000)", way], request_timeout_s=TIMEOUT_S)
    assert time.monotonic() - began_s < 15


# An engine that fails.


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--blk-file=/no/such/file",), "ended with status 1: .*/no/such/file: can't open it: No such file"),
        (("--backend=nothing",), "ended with status 1: .*neither memory, null nor package.module:Class"),
        (("--no-such-option",), "ended with status 2: .*no-such-option"),
    ],
)
def test_the_engines_own_last_line_is_in_the_exception(
    options: tuple[str, ...], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BackendGone, match=said) as gone:
        Frontend(engine_command(*options), request_timeout_s=DEADLINE_S)
    assert str(gone.value).rpartition("status ")[2].partition(": ")[2] in capfd.readouterr().err


@pytest.mark.parametrize("way", ["{fd}", "{listen_fd}", "{socket_path}"])
def test_any_programs_last_line_is_in_the_exception(way: str) -> None:
    code = "import sys; print('first', file=sys.stderr); sys.exit('the very last')"
    with pytest.raises(BackendGone, match=r"ended with status 1: the very last"):
        Frontend([sys.executable, "-c", code, way])


def is_gone_of_sigkill(disk: Frontend) -> bool:
    """Whether a request says so by now; one that was done before the end counts for nothing."""
    try:
        disk.read(0, 512)
    except BackendGone as gone:
        return "was killed by SIGKILL" in str(gone)
    return False


def test_an_engine_that_is_killed_later_is_named_too(image: Path) -> None:
    with Frontend(engine_command(f"--blk-file={image}"), request_timeout_s=DEADLINE_S) as disk:
        assert disk.backend_pid is not None
        disk.submit_read(0, disk.allocate(512))
        os.kill(disk.backend_pid, 9)
        eventually(lambda: is_gone_of_sigkill(disk), "the end")
        with pytest.raises(BackendGone, match="was killed by SIGKILL"):
            disk.refresh_config()


def test_a_program_that_nobody_stops_ends_with_the_front_end(image: Path) -> None:
    command = [part.replace("--fd={fd}", "--socket-path={socket_path}") for part in engine_command()]
    disk = Frontend([*command, f"--blk-file={image}"], request_timeout_s=DEADLINE_S)
    pid = disk.backend_pid
    assert disk.read(0, 512) == bytes(512)
    process = disk._session._process
    assert process is not None
    waits = process.process
    del disk, process
    assert waits.wait(DEADLINE_S) == 0
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "its end")
