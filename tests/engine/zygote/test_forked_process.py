"""Processes that the zygote forks: a worker, a dispatcher, on storage that is handed over."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringblk.engine.devices.io_plan import EVERYTHING_NS
from ringblk.engine.dispatcher.messages import (
    Answer,
    ChangeRegions,
    FromDispatcher,
    Recover,
    SetInflight,
    StartQueue,
)
from ringblk.engine.zygote.messages import DispatcherRole, WorkerRole
from ringblk.shm.platform.process import copy_fd_of
from ringblk.shm.queues.inflight_region import make_inflight_region, queue_region_bytes
from ringblk.workers.backends.file import FileBackend
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.memory import MemoryBackend
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.null import NullBackend
from ringblk.workers.backends.opening import take_backend
from ringblk.workers.backends.python import PythonBackend
from ringblk.workers.process.messages import MapRegion, MapRegions, Stop
from ringblk.workers.sandbox.sandbox import Sandbox
from ringblk.workers.sandbox.syscall_filter import DISPATCHER_CALLS, FILE_CALLS, URING_CALLS
from ringblk.workers.uring.ring import Uring
from tests.rigs.backends.ram_disk import RamDisk
from tests.rigs.engine_rig import eventually
from tests.rigs.inline_device import FLUSH, IN, OK, OUT, UVA_OFFSET, InlineDevice
from tests.rigs.zygote_rig import RigChild, ZygoteRig

DISK_BYTES = 1 << 20
QUEUE_SIZE = 16


@pytest.fixture
def zygote() -> Iterator[ZygoteRig]:
    with ZygoteRig() as rig:
        yield rig


@pytest.fixture
def device() -> Iterator[InlineDevice]:
    """One that leaves all requests to workers; its own backend is never asked for anything."""
    with InlineDevice(NullBackend(DISK_BYTES), queue_size=QUEUE_SIZE, inline_limit_ns=0) as device:
        yield device


def regions_of(device: InlineDevice) -> tuple[list[MapRegion], list[int]]:
    regions = [MapRegion(index, region, index + 1) for index, region in enumerate(device.ram.regions)]
    return regions, [device.ram.fd] * len(regions)


@pytest.mark.parametrize("direct", ["auto", "off"])
def test_a_worker_serves_a_file(zygote: ZygoteRig, image: Path, device: InlineDevice, direct: Any) -> None:
    """Nothing is open in the zygote: all comes along with the message."""
    eventfd = os.eventfd(0)
    device.state.open_worker(0)
    backend = FileBackend(image, direct=direct)
    child = worker_of(zygote, device, eventfd, backend)
    backend.close()
    regions, fds = regions_of(device)
    child.channel.send(MapRegions(regions), fds)
    device.loop.worker_up(0, eventfd)
    data = os.urandom(1536)
    assert device.request(OUT, 3, data=data)[0] == OK
    assert image.read_bytes()[3 * 512 : 6 * 512] == data
    assert device.request(IN, 3, read_bytes=1536)[2] == data
    assert device.request(FLUSH)[0] == OK
    child.channel.send(Stop())
    device.state.announce_control(0)
    os.eventfd_write(eventfd, 1)
    assert child.wait_end() == 0
    os.close(eventfd)


def worker_of(
    zygote: ZygoteRig,
    device: InlineDevice,
    eventfd: int,
    backend: NativeBackend,
    *,
    sandbox: Sandbox | None = None,
) -> RigChild:
    fds = {"segment": device.state.fileno(), "eventfd": eventfd, "dispatcher eventfd": device.eventfd}
    sandbox = sandbox or Sandbox(confines=True, storage_calls=FILE_CALLS)
    return RigChild(zygote, WorkerRole(worker_index=0), fds, backend, None, sandbox=sandbox)


@pytest.mark.parametrize("ring_entries", [0, 128])
def test_a_dispatcher_serves_a_file(
    zygote: ZygoteRig, image: Path, device: InlineDevice, ring_entries: int
) -> None:
    """It is told everything as a successor is."""
    eventfd = os.eventfd(0, os.EFD_NONBLOCK)
    role = DispatcherRole(inline_limit_ns=EVERYTHING_NS, poll_ns=0, chain_limit=128)
    child = RigChild(
        zygote,
        role,
        {"segment": device.state.fileno(), "eventfd": eventfd},
        FileBackend(image),
        FromDispatcher,
        sandbox=Sandbox(confines=True, storage_calls=FILE_CALLS),
        calls=(DISPATCHER_CALLS, URING_CALLS),
        ring_entries=ring_entries,
    )
    if ring_entries:
        ring = Uring.attach(copy_fd_of(child.pidfd, child.ring_fd), Uring(ring_entries).layout)
        assert ring.entry_count == ring_entries
        assert ring.is_idle
    regions, fds = regions_of(device)
    child.channel.send(ChangeRegions(1, [], regions), fds)
    inflight_fd, _ = make_inflight_region(1, QUEUE_SIZE)
    child.channel.send(SetInflight(2, queue_region_bytes(QUEUE_SIZE), 0, QUEUE_SIZE), [inflight_fd])
    driver = device.driver
    desc, avail, used = (gpa + UVA_OFFSET for gpa in (driver.desc_gpa, driver.avail_gpa, driver.used_gpa))
    start = StartQueue(3, 0, QUEUE_SIZE, desc, avail, used, 0, False, True, (True, True, False))
    child.channel.send(start, [device.kick_fd, device.call_fd])
    child.channel.send(Recover(False))
    header = OUT.to_bytes(4, "little") + bytes(4) + (5).to_bytes(8, "little")
    written, status_gpa = header + b"x" * 512, driver.place(b"\xff")
    driver.offer(driver.make_chain([(driver.place(written), len(written), False), (status_gpa, 1, True)]))
    os.eventfd_write(device.kick_fd, 1)
    eventually(lambda: driver.used() != [], "the request's return")
    assert driver.read(status_gpa, 1) == bytes([OK])
    assert image.read_bytes()[5 * 512 : 6 * 512] == b"x" * 512
    answers = [child.channel.receive() for _ in range(3)]
    assert [answer[0] for answer in answers if answer] == [Answer(1), Answer(2), Answer(3)]
    child.channel.send(Stop())
    device.state.announce_control()
    os.eventfd_write(eventfd, 1)
    assert child.wait_end() == 0


@pytest.mark.parametrize("direct", ["auto", "off"])
def test_a_backend_that_was_handed_over_is_the_same(image: Path, direct: Any) -> None:
    backend = FileBackend(image, direct=direct, read_only=True)
    storage, fds = backend.hand_over()
    taken = take_backend(storage, [os.dup(fd) for fd in fds])
    for name in ("size_bytes", "read_only", "block_size_bytes", "topology", "system_calls"):
        assert getattr(taken, name) == getattr(backend, name)
    assert (taken.identity(), taken.direct_io()) == (backend.identity(), backend.direct_io())
    assert taken.waiting().reason == backend.waiting().reason
    assert taken.hand_over()[0] == storage  # for the next control plane's processes
    backend.close()
    assert taken.measure() == DISK_BYTES
    taken.read_at(0, bytearray(DISK_BYTES))
    taken.close()
    assert take_backend(*NullBackend(4096).hand_over()).size_bytes == 4096


def test_memory_that_was_handed_over_is_the_same_memory() -> None:
    backend = MemoryBackend(DISK_BYTES)
    storage, fds = backend.hand_over()
    taken = take_backend(storage, [os.dup(fd) for fd in fds])
    assert (taken.size_bytes, taken.read_only) == (DISK_BYTES, False)
    backend.write_at(4096, b"x" * 4096)
    backend.close()
    read = bytearray(4096)
    taken.read_at(4096, read)
    assert read == b"x" * 4096
    taken.discard(0, DISK_BYTES)
    taken.read_at(4096, read)
    assert read == bytes(4096)
    taken.close()


class OwnFile(FileBackend):
    """What it has besides would be missing where it arrives."""


class OwnMemory(MemoryBackend):
    """The same."""


def test_what_can_only_be_inherited_says_so(image: Path) -> None:
    backends = [PythonBackend(RamDisk(4096)), OwnMemory(4096), OwnFile(image)]
    for backend in backends:
        with pytest.raises(BackendError, match="for processes that are forked once it was made"):
            backend.hand_over()


def test_a_child_that_cannot_begin_ends_with_an_error(zygote: ZygoteRig, device: InlineDevice) -> None:
    broken = worker_of(zygote, device, device.kick_fd, NullBackend(4096), sandbox=RulelessSandbox())
    broken.channel.send(Stop())
    assert os.waitstatus_to_exitcode(broken.wait_end()) == 1


class RulelessSandbox(Sandbox):
    """Its rules are the descriptor of something else."""

    def __init__(self) -> None:
        super().__init__(confines=True)
        os.dup2(os.open("/dev/zero", os.O_RDONLY), self.ruleset_fd)
