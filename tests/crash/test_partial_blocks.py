"""Changes of parts of blocks of 4096 bytes beside other changes of the same blocks: none is lost.

The drive is a device, or a file, whose direct I/O is by blocks of 4096 bytes: what begins or ends within one
is done by reading, changing and writing it.
"""

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringblk.engine.statistics.running_engines import RunningEngines
from tests.crash.crash_plan import CrashPlan
from tests.crash.crash_points import point_names
from tests.crash.partial_drive import IO_ENGINES, PartialDrive
from tests.crash.partial_load import PartialLoad
from tests.rigs.crash_load import BLOCK_BYTES
from tests.rigs.engine_rig import DEADLINE_S, eventually
from tests.rigs.stalling_file import StallingFile, stalling_file

NUM_BLOCKS = 16
ROUNDS = 40
DISPATCHER = ("dispatcher",)
WORKERS = tuple(f"worker-{index}" for index in range(5))
DEATHS = 13
SIZE_BYTES = 16 << 20


@pytest.fixture
def make_drive(
    tmp_path: Path, loop_device: Callable[[int, int], Path]
) -> Iterator[Callable[[str], PartialDrive]]:
    drives: list[PartialDrive] = []

    def make(io_engine: str) -> PartialDrive:
        device = loop_device(SIZE_BYTES, BLOCK_BYTES)
        drives.append(PartialDrive(tmp_path, f"--blk-file={device}", "--direct=on", io_engine=io_engine))
        return drives[-1]

    yield make
    for drive in drives:
        drive.close()


@pytest.mark.parametrize("io_engine", IO_ENGINES)
def test_changes_in_flight_together(make_drive: Callable[[str], PartialDrive], io_engine: str) -> None:
    drive = make_drive(io_engine)
    load = PartialLoad(drive.disk, NUM_BLOCKS, seed=1)
    for _ in range(ROUNDS):
        load.round(drive.reconnect)


@pytest.mark.parametrize("io_engine", IO_ENGINES)
def test_deaths_meanwhile(make_drive: Callable[[str], PartialDrive], io_engine: str) -> None:
    """Workers, the dispatcher and whole engines die with requests in flight."""
    drive = make_drive(io_engine)
    roles = ["dispatcher", "worker-0", "dispatcher", "worker-1", "worker-2", "supervisor"]
    if io_engine == "sync":
        roles = ["dispatcher", "dispatcher", "supervisor"]
    load = PartialLoad(drive.disk, NUM_BLOCKS, seed=2)
    killed: list[str] = []
    for role in itertools.islice(itertools.cycle(roles), DEATHS):

        def kill(role: str = role) -> None:
            while not drive.engine.kill(role):  # one has gone, the next is not there yet
                drive.engine.wait_child(role)
            killed.append(role)
            if role == "supervisor":  # what is in flight is for the next engine, noticed or not
                drive.reconnect()

        load.round(drive.reconnect, kill)
    assert len(killed) == DEATHS


STEPS = [
    *sorted(name for name in point_names() if name.startswith("overlap:")),
    "dispatcher: slot prepared",
    "dispatcher: handed in the slot",
    "dispatcher: submit tail published",
    "dispatcher: slot freed",
    "worker: executed",
    "worker: done published",
]
AFTER_THAT = ["recovery: slot taken back", "recovery: slot given again", "overlap: request held"]
"""Where the next dispatcher dies."""


def test_deaths_at_each_step(tmp_path: Path, loop_device: Callable[[int, int], Path]) -> None:
    plan = CrashPlan(tmp_path / "plan")
    device = loop_device(SIZE_BYTES, BLOCK_BYTES)
    drive = PartialDrive(tmp_path, f"--blk-file={device}", "--direct=on", plan=plan)
    load = PartialLoad(drive.disk, NUM_BLOCKS, seed=3)
    deaths = [[(step, 5)] for step in STEPS]
    deaths += [[("dispatcher: slot prepared", 30), (step, 2)] for step in AFTER_THAT]
    for planned in deaths:
        plan.arm(*planned)
        for _ in range(20):
            load.round(drive.reconnect)
            if plan.deaths == len(planned):
                break
        assert plan.deaths == len(planned), planned
    plan.disarm()
    drive.close()


@pytest.fixture
def disk_file(tmp_path: Path) -> Iterator[StallingFile]:
    with stalling_file(tmp_path, SIZE_BYTES) as file:
        yield file


@pytest.fixture(params=["psync", "io_uring", "io_uring_inline"])
def slow_drive(
    request: pytest.FixtureRequest, tmp_path: Path, disk_file: StallingFile
) -> Iterator[PartialDrive]:
    drive = PartialDrive(
        tmp_path,
        "--backend=coarse_disk:coarse_disk",
        f"--backend-arg=path={disk_file.path}",
        io_engine=request.param,
    )
    yield drive
    disk_file.go_on()
    drive.close()


FIRST, PART, LAST = b"1" * BLOCK_BYTES, b"2" * 512, b"3" * BLOCK_BYTES
PLACE, ELSEWHERE = 5 * BLOCK_BYTES, 9 * BLOCK_BYTES


def popped_count(drive: PartialDrive) -> int:
    """How many requests the engine has taken from its rings."""
    (snapshot,) = RunningEngines(str(drive.engine.pid)).snapshots()
    return sum(queue.popped_count for queue in snapshot.queues)


def hold_back(drive: PartialDrive, disk_file: StallingFile) -> list[int]:
    """A write of a block hangs in the disk; a part of it and all of it wait in the engine. Their tokens."""
    disk_file.stall()
    tokens = [drive.write(PLACE, FIRST)]
    disk_file.wait_for(lambda: disk_file.held_offsets == [PLACE])
    tokens += [drive.write(PLACE + 1024, PART), drive.write(PLACE, LAST)]
    return tokens


def test_others_go_past_what_waits_in_order(slow_drive: PartialDrive, disk_file: StallingFile) -> None:
    tokens = hold_back(slow_drive, disk_file)
    others: list[int] = []
    if slow_drive.io_engine != "io_uring_inline":  # the kernel has who submits a write to FUSE wait for it
        others.append(ELSEWHERE)
        tokens.append(slow_drive.write(ELSEWHERE, FIRST, 1))
        disk_file.wait_for(lambda: disk_file.held_offsets == [PLACE, ELSEWHERE])
    disk_file.go_on()
    slow_drive.finish(tokens)
    assert disk_file.write_log == [PLACE, *others, PLACE, PLACE]
    assert bytes(disk_file.content[PLACE : PLACE + BLOCK_BYTES]) == LAST


def test_a_stream_of_whole_blocks_does_not_keep_a_part_waiting(
    slow_drive: PartialDrive, disk_file: StallingFile
) -> None:
    """Those that come after it wait for it, as it waits for those before it."""
    tokens = hold_back(slow_drive, disk_file)
    tokens += [slow_drive.write(PLACE, LAST) for _ in range(30)]  # on one queue, where order means something
    assert disk_file.held_offsets == [PLACE]
    disk_file.go_on()
    slow_drive.finish(tokens)
    assert bytes(disk_file.content[PLACE : PLACE + BLOCK_BYTES]) == LAST


def test_a_part_hangs_and_others_wait_for_it(slow_drive: PartialDrive, disk_file: StallingFile) -> None:
    slow_drive.disk.write(PLACE, FIRST)
    disk_file.stall()
    tokens = [slow_drive.write(PLACE + 1024, PART)]
    disk_file.wait_for(lambda: disk_file.held_offsets == [PLACE])
    tokens += [slow_drive.write(PLACE + 512, PART), slow_drive.write(PLACE + 3584, PART * 3)]
    tokens.append(slow_drive.disk.submit_write_zeroes(PLACE + 2048, 512, queue_index=1))
    slow_drive.disk.submit(queue_index=1)
    tokens.append(slow_drive.write(ELSEWHERE, FIRST, 2))
    disk_file.wait_for(lambda: disk_file.held_offsets == [PLACE, ELSEWHERE])
    disk_file.go_on()
    slow_drive.finish(tokens)
    block = bytes(disk_file.content[PLACE : PLACE + BLOCK_BYTES])
    assert block == b"1" * 512 + PART * 2 + b"1" * 512 + bytes(512) + b"1" * 1024 + PART


@pytest.mark.parametrize("dies", [DISPATCHER, WORKERS, (*DISPATCHER, *WORKERS)])
def test_what_waits_survives_deaths(
    slow_drive: PartialDrive, disk_file: StallingFile, dies: tuple[str, ...]
) -> None:
    tokens = hold_back(slow_drive, disk_file)
    for role in dies:
        slow_drive.engine.kill(role)
    tokens.append(slow_drive.write(ELSEWHERE, FIRST, 1))
    disk_file.go_on()
    slow_drive.finish(tokens)
    assert bytes(disk_file.content[PLACE : PLACE + BLOCK_BYTES]) == LAST
    tokens = hold_back(slow_drive, disk_file)  # whoever took over knows what is under way
    assert disk_file.held_offsets == [PLACE]
    disk_file.go_on()
    slow_drive.finish(tokens)


def test_another_engine_goes_on_with_what_waits(slow_drive: PartialDrive, disk_file: StallingFile) -> None:
    tokens = hold_back(slow_drive, disk_file)
    slow_drive.engine.kill("supervisor")
    disk_file.go_on()
    slow_drive.reconnect()
    slow_drive.finish(tokens)
    assert bytes(disk_file.content[PLACE : PLACE + BLOCK_BYTES]) == LAST


def test_stopping_the_queues_waits_for_what_waits(slow_drive: PartialDrive, disk_file: StallingFile) -> None:
    if slow_drive.io_engine == "io_uring_inline":
        pytest.skip(
            "the kernel has who submits a write to FUSE wait for it: nothing else is popped meanwhile"
        )
    before = popped_count(slow_drive)
    tokens = hold_back(slow_drive, disk_file)
    eventually(lambda: popped_count(slow_drive) == before + len(tokens), "all popped: what is not goes back")
    closing = threading.Thread(target=slow_drive.disk.close)
    closing.start()
    disk_file.go_on()
    closing.join(DEADLINE_S)
    assert not closing.is_alive()
    assert bytes(disk_file.content[PLACE : PLACE + BLOCK_BYTES]) == LAST
