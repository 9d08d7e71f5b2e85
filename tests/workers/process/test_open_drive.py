"""An open backend is handed to a worker, or a dispatcher, that runs already."""

import os
import select
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ringblk.engine.devices.io_plan import EVERYTHING_NS
from ringblk.engine.dispatcher.dispatcher import run_dispatcher
from ringblk.engine.dispatcher.dispatcher_setup import DispatcherSetup
from ringblk.engine.dispatcher.messages import (
    Answer,
    ChangeRegions,
    FromDispatcher,
    Recover,
    SetInflight,
    StartQueue,
    ToDispatcher,
)
from ringblk.engine.supervisor.child import Child, fork_child, open_fds
from ringblk.shm.queues.inflight_region import make_inflight_region, queue_region_bytes
from ringblk.workers.backends.file import FileBackend
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.memory import MemoryBackend
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.null import NullBackend
from ringblk.workers.backends.opening import take_backend
from ringblk.workers.backends.python import PythonBackend
from ringblk.workers.block.drive_requests import BlockRequests
from ringblk.workers.process.messages import MapRegion, MapRegions, OpenDrive, Stop, ToWorker
from ringblk.workers.process.worker import WorkerSetup, run_worker
from ringblk.workers.sandbox.sandbox import Sandbox
from ringblk.workers.sandbox.syscall_filter import FILE_CALLS
from tests.rigs.backends.ram_disk import RamDisk
from tests.rigs.engine_rig import DEADLINE_S, eventually
from tests.rigs.inline_device import FLUSH, IN, OK, OUT, UVA_OFFSET, InlineDevice

DISK_BYTES = 1 << 20
QUEUE_SIZE = 16
REQUESTS = BlockRequests(NativeBackend(), b"id")  # to be set up on what comes


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(DISK_BYTES))
    return path


@pytest.fixture
def device() -> Iterator[InlineDevice]:
    """One that leaves all requests to workers; its own backend is never asked for anything."""
    with InlineDevice(NullBackend(DISK_BYTES), queue_size=QUEUE_SIZE, inline_limit_ns=0) as device:
        yield device


def hand_over(child: Child[Any], backend: NativeBackend) -> None:
    storage, fds = backend.hand_over()
    child.send(OpenDrive(storage), fds)


def regions_of(device: InlineDevice) -> tuple[list[MapRegion], list[int]]:
    regions = [MapRegion(index, region, index + 1) for index, region in enumerate(device.ram.regions)]
    return regions, [device.ram.fd] * len(regions)


def ended_well(child: Child[Any]) -> bool:
    ready, _, _ = select.select([child.pidfd], [], [], DEADLINE_S)
    return bool(ready) and os.waitpid(child.pid, 0)[1] == 0


@pytest.mark.parametrize("direct", ["auto", "off"])
def test_a_worker_that_runs_serves_a_file(image: Path, device: InlineDevice, direct: Any) -> None:
    """It is in its sandbox already, where nothing can be opened."""
    eventfd = os.eventfd(0)
    device.state.open_worker(0)
    sandbox = Sandbox(confines=True, storage_calls=FILE_CALLS)
    setup = WorkerSetup(0, device.state, None, REQUESTS, eventfd, device.eventfd, None, sandbox)
    child: Child[None] = fork_child("rb-worker-0", partial(run_worker, setup), None, ToWorker, open_fds())
    backend = FileBackend(image, direct=direct)
    hand_over(child, backend)
    backend.close()
    regions, fds = regions_of(device)
    child.send(MapRegions(regions), fds)
    device.loop.worker_up(0, eventfd)
    data = os.urandom(1536)
    assert device.request(OUT, 3, data=data)[0] == OK
    assert image.read_bytes()[3 * 512 : 6 * 512] == data
    assert device.request(IN, 3, read_bytes=1536)[2] == data
    assert device.request(FLUSH)[0] == OK
    child.send(Stop())
    device.state.announce_control(0)
    os.eventfd_write(eventfd, 1)
    assert ended_well(child)
    os.close(eventfd)


def test_a_dispatcher_that_runs_serves_a_file(image: Path, device: InlineDevice) -> None:
    """It is told everything as a successor is, the drive first."""
    sandbox = Sandbox(confines=True, storage_calls=FILE_CALLS)
    eventfd = os.eventfd(0, os.EFD_NONBLOCK)
    setup = DispatcherSetup(
        state=device.state,
        backend=None,
        requests=REQUESTS,
        own_eventfd=eventfd,
        uring=None,
        inline_limit_ns=EVERYTHING_NS,
        poll_ns=0,
        chain_limit=128,
        rate_limit=device.state.rate_limit,
        is_rate_shared=False,
        sandbox=sandbox,
    )
    child: Child[FromDispatcher] = fork_child(
        "rb-dispatcher", partial(run_dispatcher, setup), FromDispatcher, ToDispatcher, open_fds()
    )
    hand_over(child, FileBackend(image))
    regions, fds = regions_of(device)
    child.send(ChangeRegions(1, [], regions), fds)
    inflight_fd, _ = make_inflight_region(1, QUEUE_SIZE)
    child.send(SetInflight(2, queue_region_bytes(QUEUE_SIZE), 0, QUEUE_SIZE), [inflight_fd])
    driver = device.driver
    desc, avail, used = (gpa + UVA_OFFSET for gpa in (driver.desc_gpa, driver.avail_gpa, driver.used_gpa))
    start = StartQueue(3, 0, QUEUE_SIZE, desc, avail, used, 0, False, True, (True, True, False))
    child.send(start, [device.kick_fd, device.call_fd])
    child.send(Recover(False))
    header = OUT.to_bytes(4, "little") + bytes(4) + (5).to_bytes(8, "little")
    written, status_gpa = header + b"x" * 512, driver.place(b"\xff")
    driver.offer(driver.make_chain([(driver.place(written), len(written), False), (status_gpa, 1, True)]))
    os.eventfd_write(device.kick_fd, 1)
    eventually(lambda: driver.used() != [], "the request's return")
    assert driver.read(status_gpa, 1) == bytes([OK])
    assert image.read_bytes()[5 * 512 : 6 * 512] == b"x" * 512
    answers = [child.channel.receive() for _ in range(3)]
    assert [answer[0] for answer in answers if answer] == [Answer(1), Answer(2), Answer(3)]
    child.send(Stop())
    device.state.announce_control()
    os.eventfd_write(eventfd, 1)
    assert ended_well(child)


@pytest.mark.parametrize("direct", ["auto", "off"])
def test_a_backend_that_was_handed_over_is_the_same(image: Path, direct: Any) -> None:
    backend = FileBackend(image, direct=direct, read_only=True)
    storage, fds = backend.hand_over()
    taken = take_backend(storage, [os.dup(fd) for fd in fds])
    for name in ("size_bytes", "read_only", "block_size_bytes", "topology", "system_calls"):
        assert getattr(taken, name) == getattr(backend, name)
    assert (taken.identity(), taken.direct_io()) == (backend.identity(), backend.direct_io())
    assert taken.waiting().reason == backend.waiting().reason
    backend.close()
    assert taken.measure() == DISK_BYTES
    taken.read_at(0, bytearray(DISK_BYTES))
    taken.close()
    assert take_backend(*NullBackend(4096).hand_over()).size_bytes == 4096


class OwnFile(FileBackend):
    """What it has besides would be missing where it arrives."""


def test_what_can_only_be_inherited_says_so(image: Path) -> None:
    backends = [PythonBackend(RamDisk(4096)), MemoryBackend(4096), OwnFile(image)]
    for backend in backends:
        with pytest.raises(BackendError, match="for processes that are forked once it was made"):
            backend.hand_over()


def test_another_message_before_the_drive_ends_a_worker(device: InlineDevice) -> None:
    eventfd = os.eventfd(0)
    setup = WorkerSetup(
        0, device.state, None, REQUESTS, eventfd, device.eventfd, None, Sandbox(confines=False)
    )
    child: Child[None] = fork_child("rb-worker-0", partial(run_worker, setup), None, ToWorker, open_fds())
    child.send(Stop())
    ready, _, _ = select.select([child.pidfd], [], [], DEADLINE_S)
    assert ready
    assert os.waitpid(child.pid, 0)[1] != 0
