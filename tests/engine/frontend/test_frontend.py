"""The front end against real back ends: what is written is read, and nothing is left behind."""

import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringblk import (
    BackendGone,
    BackendRefused,
    Frontend,
    QueueFull,
    RequestStatus,
    RequestType,
    engine_command,
)
from ringblk.workers.block.config_space import BlockConfigSpace
from tests.rigs.child_process import ends_with_tests

DISK_BYTES = 8 << 20
TIMEOUT_S = 30.0
BackendCommand = Callable[[Path], list[str]]


def storage_daemon(image: Path) -> list[str]:
    if shutil.which("qemu-storage-daemon") is None:
        pytest.skip("qemu-storage-daemon is not installed")
    export = "vhost-user-blk,id=e0,node-name=n0,writable=on,num-queues=4"
    return [
        "qemu-storage-daemon",
        *("--blockdev", f"driver=file,node-name=n0,discard=unmap,filename={image}"),
        *("--export", f"{export},addr.type=fd,addr.str={{listen_fd}}"),
    ]


def own_engine(image: Path) -> list[str]:
    return engine_command(f"--blk-file={image}", "--num-queues=4")


@pytest.fixture(params=[storage_daemon, own_engine], ids=lambda command: command.__name__)
def backend_command(request: pytest.FixtureRequest) -> BackendCommand:
    command: BackendCommand = request.param
    return command


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(DISK_BYTES))
    return path


@pytest.fixture
def disk(backend_command: BackendCommand, image: Path) -> Iterator[Frontend]:
    with Frontend(backend_command(image), num_queues=2, request_timeout_s=TIMEOUT_S) as frontend:
        yield frontend


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(member for child in children for member in family(int(child)))]


def stop_all(pids: list[int]) -> None:
    """Stop processes, and return when they have stopped."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            os.sched_yield()


def kill_all(pids: list[int]) -> None:
    """Kill stopped processes and wait until none of them runs any more."""
    pidfds = [os.pidfd_open(pid) for pid in pids]
    for pidfd in pidfds:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    for pidfd in pidfds:
        select.select([pidfd], [], [])
        os.close(pidfd)


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_reads_and_writes_the_image(disk: Frontend, image: Path) -> None:
    content = bytearray(image.read_bytes())
    assert disk.capacity_bytes == DISK_BYTES
    assert disk.read(512, 3 << 20) == content[512 : 512 + (3 << 20)]
    data = random.Random(2).randbytes((2 << 20) + 512)
    disk.write(4096, data, queue_index=1)
    disk.flush()
    content[4096 : 4096 + len(data)] = data
    assert image.read_bytes() == content
    assert disk.read(0, DISK_BYTES) == content
    assert disk.read(0, 0) == b""


def test_discards_and_writes_zeroes(disk: Frontend, image: Path) -> None:
    content = bytearray(image.read_bytes())
    disk.write_zeroes(8192, 65536)
    disk.write_zeroes(1 << 20, 1 << 20, unmap=True)
    disk.discard(4 << 20, 1 << 20)
    content[8192 : 8192 + 65536] = bytes(65536)
    content[1 << 20 : 2 << 20] = bytes(1 << 20)
    assert disk.read(0, 4 << 20) == content[: 4 << 20]
    assert disk.read(5 << 20, 3 << 20) == content[5 << 20 :]


def test_knows_the_disk(disk: Frontend) -> None:
    assert 0 < len(disk.get_id()) <= 20
    assert disk.config.blk_size == 512
    assert disk.refresh_config() == disk.config
    assert disk.features >> 32 == 1


def test_a_refused_request_raises_and_the_next_is_served(disk: Frontend) -> None:
    with disk.allocate(512) as buffer:
        token = disk.submit_request(RequestType.IN, DISK_BYTES // 512, buffer, device_writes=True)
        assert disk.wait(token, TIMEOUT_S).status == RequestStatus.IOERR
    token = disk.submit_request(0x7777, 0)
    assert disk.wait(token, TIMEOUT_S).status == RequestStatus.UNSUPP
    assert len(disk.read(DISK_BYTES - 512, 512)) == 512


@pytest.mark.parametrize("misaligned", [1, 511, 513])
def test_an_offset_that_is_no_sector_is_the_callers_error(disk: Frontend, misaligned: int) -> None:
    with pytest.raises(ValueError, match="not a multiple of 512"):
        disk.read(misaligned, 512)
    with pytest.raises(ValueError, match="not a multiple of 512"):
        disk.discard(0, misaligned)
    with disk.allocate(512) as buffer, pytest.raises(ValueError, match="not a multiple of 512"):
        disk.submit_many([(RequestType.IN, misaligned, buffer)])
    assert disk.inflight_count() == 0


@pytest.mark.parametrize("queue_size", [4, 64])
@pytest.mark.parametrize(
    ("indirect", "event_idx", "polling"),
    [
        (True, True, False),
        (False, True, False),
        (True, False, False),
        (False, False, True),
        (True, True, True),
    ],
)
def test_every_form_of_ring_carries_a_full_queue(
    backend_command: BackendCommand,
    image: Path,
    queue_size: int,
    indirect: bool,
    event_idx: bool,
    polling: bool,
) -> None:
    content = image.read_bytes()
    with Frontend(
        backend_command(image), queue_size=queue_size, indirect=indirect, event_idx=event_idx, polling=polling
    ) as disk:
        depth = queue_size if indirect else queue_size // 3
        buffers = [disk.allocate(1024) for _ in range(depth + 1)]
        for turn in range(10):
            offsets = {}
            requests = [
                (RequestType.IN, 512 * (turn + 3 * index), buffer) for index, buffer in enumerate(buffers)
            ]
            tokens = disk.submit_many(requests)
            assert len(tokens) == depth == disk.inflight_count()
            with pytest.raises(QueueFull):
                disk.submit_read(0, buffers[-1])
            offsets = dict(zip(tokens, (offset for _, offset, _ in requests), strict=False))
            done = disk.poll(depth, TIMEOUT_S)
            assert sorted(completion.token for completion in done) == sorted(tokens)
            for completion in done:
                offset = offsets[completion.token]
                assert completion.status == RequestStatus.OK
                assert completion.buffer is not None
                assert bytes(completion.buffer) == content[offset : offset + 1024]
                assert 0 < completion.latency_ns < TIMEOUT_S * 1e9
        assert disk.poll(1) == []


def test_waiting_for_one_keeps_the_others(disk: Frontend) -> None:
    buffers = [disk.allocate(512) for _ in range(8)]
    tokens = [disk.submit_read(512 * index, buffer) for index, buffer in enumerate(buffers)]
    last = disk.wait(tokens[-1], TIMEOUT_S)
    assert last.token == tokens[-1]
    assert last.buffer is buffers[-1]
    disk.read(0, 512)
    found = disk.poll(2, TIMEOUT_S, max_count=2)
    assert len(found) == 2
    found += disk.poll(5, TIMEOUT_S)
    assert sorted(completion.token for completion in found) == tokens[:-1]


def test_a_buffer_released_in_flight_is_free_afterwards(disk: Frontend) -> None:
    free_bytes = disk._memory.free_bytes
    buffer = disk.allocate(4096)
    token = disk.submit_read(0, buffer.part(512, 512))
    buffer.release()
    assert disk._memory.free_bytes < free_bytes
    with pytest.raises(ValueError, match="released"):
        disk.submit_read(0, buffer)
    disk.wait(token, TIMEOUT_S)
    assert disk._memory.free_bytes == free_bytes


write = st.tuples(st.integers(0, 60), st.integers(1, 8), st.integers(0, 255))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(write, max_size=12), max_size=4))
def test_batches_on_several_queues_add_up_to_a_bytearray(
    disk: Frontend, batches: list[list[tuple[int, int, int]]]
) -> None:
    model = bytearray(disk.read(0, 64 << 10))
    for turn, batch in enumerate(batches):
        queue_index = turn % 2
        taken: set[int] = set()
        for sector, num_sectors, value in batch:
            sectors = set(range(sector, sector + num_sectors))
            if sectors & taken:  # requests in flight together have no order
                continue
            taken |= sectors
            with disk.allocate(512 * num_sectors) as buffer:
                buffer.view[:] = bytes([value]) * len(buffer)
                disk.submit_write(512 * sector, buffer, queue_index=queue_index)
                model[512 * sector : 512 * (sector + num_sectors)] = bytes(buffer)
        count = disk.inflight_count(queue_index=queue_index)
        done = disk.poll(count, TIMEOUT_S, queue_index=queue_index)
        assert [completion.status for completion in done] == [0] * count
        assert disk.read(0, 64 << 10, queue_index=1 - queue_index) == model


def test_requests_in_flight_survive_their_back_end(backend_command: BackendCommand, image: Path) -> None:
    with Frontend(backend_command(image), num_queues=2) as disk:
        assert disk.backend_pid is not None
        disk.write(0, b"\1" * 4096)
        pids = family(disk.backend_pid)
        stop_all(pids)
        buffers = [disk.allocate(512) for _ in range(8)]
        tokens = []
        for index, buffer in enumerate(buffers):
            buffer.view[:] = bytes([100 + index]) * 512
            tokens.append(disk.submit_write(512 * index, buffer, queue_index=index % 2))
        for queue_index in range(2):
            disk.submit(queue_index=queue_index)
        assert disk.poll(1, 0.0) == []
        kill_all(pids)
        with pytest.raises(BackendGone):
            disk.poll(1, TIMEOUT_S)
        with pytest.raises(BackendGone):
            disk.wait(tokens[0], TIMEOUT_S)
        disk.reconnect()
        done = disk.poll(4, TIMEOUT_S) + disk.poll(4, TIMEOUT_S, queue_index=1)
        assert sorted(completion.token for completion in done) == sorted(tokens)
        assert [completion.status for completion in done] == [0] * 8
        expected = b"".join(bytes([100 + index]) * 512 for index in range(8))
        assert disk.read(0, 4096) == expected
        disk.flush(queue_index=1)
    assert image.read_bytes()[:4096] == expected


def test_reconnecting_again_and_again_goes_on(backend_command: BackendCommand, image: Path) -> None:
    with Frontend(backend_command(image), queue_size=4, indirect=False) as disk:
        for turn in range(4):
            for _ in range(turn + 1):
                disk.write(512 * turn, bytes([turn]) * 512)
            disk.reconnect()
        assert disk.read(0, 2048) == b"".join(bytes([turn]) * 512 for turn in range(4))


def test_more_queues_than_there_are_is_refused(backend_command: BackendCommand, image: Path) -> None:
    fd_count = open_fds()
    with pytest.raises(BackendRefused, match=r"\d+ queues, 1000 were asked for"):
        Frontend(backend_command(image), num_queues=1000, queue_size=2)
    assert open_fds() <= fd_count


def test_nothing_is_left_behind(backend_command: BackendCommand, image: Path) -> None:
    before = open_fds()
    for _ in range(3):
        disk = Frontend(backend_command(image), num_queues=4)
        pid = disk.backend_pid
        disk.read(0, 512)
        disk.close()
        disk.close()
        assert not Path(f"/proc/{pid}").exists()
        assert not [name for name in os.listdir("/dev/shm") if name.endswith(f"-{pid}")]
    assert open_fds() <= before


def test_connects_to_a_socket_that_somebody_listens_on(
    backend_command: BackendCommand, image: Path, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        number = str(listening.fileno())
        command = [
            part.replace("{listen_fd}", number).replace("{fd}", number) for part in backend_command(image)
        ]
        process = subprocess.Popen(ends_with_tests(command), pass_fds=[listening.fileno()])
    try:
        for _ in range(2):
            with Frontend(path) as disk:
                assert disk.backend_pid is None
                assert disk.read(0, 512) == image.read_bytes()[:512]
    finally:
        process.terminate()
        process.wait()


def test_a_back_end_that_is_not_there_is_gone(tmp_path: Path) -> None:
    fd_count = open_fds()
    with pytest.raises(BackendGone, match="no back end listens"):
        Frontend(tmp_path / "nobody")
    for way in ("{fd}", "{listen_fd}", "{socket_path}"):
        with pytest.raises(BackendGone):
            Frontend([sys.executable, "-c", "raise SystemExit(3)", way])
    with pytest.raises(ValueError, match="listen_fd"):
        Frontend([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(FileNotFoundError):
        Frontend(["/does/not/exist", "{fd}"])
    assert open_fds() <= fd_count


def test_reads_a_config_space_of_known_bytes() -> None:
    config = BlockConfigSpace.decode(bytes(range(60)))
    assert config.capacity == 0x0706050403020100
    assert config.blk_size == 0x17161514
    assert config.writeback == 32
    assert config.num_queues == 0x2322
    assert config.max_discard_sectors == 0x27262524
    assert config.write_zeroes_may_unmap == 56


def test_importing_the_package_does_not_import_the_front_end() -> None:
    program = (
        "import ringblk, sys; print([n for n in sys.modules if n.startswith('ringblk.')], ringblk.Frontend)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert printed.startswith("[] <class")


def test_flush_works_on_an_engine_that_does_not_offer_it(image: Path) -> None:
    with Frontend(engine_command(f"--blk-file={image}", "--cache=unsafe")) as disk:
        disk.write(0, bytes(4096))
        disk.flush()
        assert disk.wait(disk.submit_flush(), TIMEOUT_S).status == RequestStatus.OK
