"""Guest memory that comes and goes while the processes of an engine are at different points.

Fault model: a process of the engine is held up at any time, the front end changes its memory table as fast
as it can and takes away what it gave, and others of the user have too many descriptors on their way.
"""

import contextlib
import fcntl
import os
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringblk import BackendGone
from ringblk.shm.memory.region import MemoryRegion
from ringblk.shm.sync.channel import MAX_FDS
from tests.rigs.engine_rig import MEMORY, Engine, EngineWithWorkers, RawFrontend, eventually, raw_frontend
from tests.rigs.inline_device import IN, OK, UVA_OFFSET

OPTIONS = (*MEMORY, "--io-engine=psync", "--workers=2")
GPA = 0x100000000
PAGE = 4096
F_SEAL_FUTURE_WRITE = 0x10  # fcntl(2)
OPEN_FILES = 512


def region_at(place: int, size_bytes: int = PAGE) -> MemoryRegion:
    gpa = GPA + (place << 30)
    return MemoryRegion(gpa, size_bytes, gpa + UVA_OFFSET, 0)


def memory_file(name: str, size_bytes: int = PAGE) -> int:
    fd = os.memfd_create(name, os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size_bytes)
    return fd


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def named(engine: Engine, name: str) -> list[int]:
    """The children whose process name begins so."""
    return [
        pid for pid in sorted(engine.children()) if Path(f"/proc/{pid}/comm").read_text().startswith(name)
    ]


def has_mapped(pid: int, name: str) -> bool:
    return f"memfd:{name}" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.parametrize("is_running", [True, False], ids=["running", "stopped"])
def test_a_region_that_cannot_be_mapped_when_its_turn_comes(is_running: bool) -> None:
    """The session ends as with all lost memory; nobody keeps a part of the table that others do not have."""
    with EngineWithWorkers(*OPTIONS) as engine:
        children = engine.children()
        (dispatcher,), workers = named(engine, "rb-dispatcher"), named(engine, "rb-worker")
        fds = [memory_file("first", 64 * PAGE), memory_file("second")]
        with RawFrontend(engine) as frontend:
            frontend.negotiate()
            frontend.add_memory()
            if is_running:
                frontend.start_queue(0)
            table = [(frontend.ram.regions[0], frontend.ram.fd)]
            table += [(region_at(0, 64 * PAGE), fds[0]), (region_at(1), fds[1])]
            with stopped(dispatcher):
                change = threading.Thread(target=expect_end, args=(frontend, table))
                change.start()
                for worker in workers:
                    eventually(lambda pid=worker: has_mapped(pid, "second"), "a worker's mapping")  # type: ignore[misc]
                fcntl.fcntl(fds[1], fcntl.F_ADD_SEALS, F_SEAL_FUTURE_WRITE)
            change.join()
        for fd in fds:
            os.close(fd)
        assert f"the memory region at {region_at(1).gpa:#x} of {PAGE} bytes cannot be reached" in engine.log()
        with raw_frontend(engine) as frontend:
            assert frontend.queues[0].request(IN, read_bytes=512)[0] == OK
        eventually(lambda: not any(has_mapped(pid, "first") for pid in children), "nobody's mapping left")
        assert engine.children() == children


def expect_end(frontend: RawFrontend, table: list[tuple[MemoryRegion, int]]) -> None:
    """Set a memory table, which the engine may still answer before it ends the session."""
    with contextlib.suppress(BackendGone):
        frontend.connection.set_mem_table(table)
    with contextlib.suppress(ConnectionError):
        assert frontend.connection.socket.recv(1) == b""


def test_a_region_that_has_gone_before_a_worker_hears_of_it() -> None:
    """Its index may stand for a region of the next front end by then, which is not lost."""
    with EngineWithWorkers(*OPTIONS) as engine:
        late = named(engine, "rb-worker")[0]
        fd = memory_file("late")
        with stopped(late):
            with raw_frontend(engine) as frontend:
                frontend.connection.add_region(region_at(0), fd)
                frontend.connection.remove_region(region_at(0))
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, F_SEAL_FUTURE_WRITE)
            os.close(fd)
            frontend = RawFrontend(engine).set_up()
            fd = memory_file("next")
            frontend.connection.add_region(region_at(0), fd)
        eventually(lambda: has_mapped(late, "next"), "the worker's mapping")
        assert frontend.queues[0].request(IN, read_bytes=512)[0] == OK
        assert "cannot be reached" not in engine.log()
        frontend.close()
        os.close(fd)


def test_a_flood_of_changes_while_a_worker_does_not_listen() -> None:
    """The front end waits before the engine runs out of descriptors, and goes on when the worker does."""
    with EngineWithWorkers(*OPTIONS) as engine:
        fd = memory_file("flood")
        with raw_frontend(engine) as frontend:
            count = 0

            def flood() -> None:
                nonlocal count
                for _ in range(500):
                    frontend.connection.add_region(region_at(0), fd)
                    frontend.connection.remove_region(region_at(0))
                    count += 1

            flooding = threading.Thread(target=flood)
            with stopped(named(engine, "rb-worker")[0]):
                flooding.start()
                eventually(lambda: "a change of guest memory waits" in engine.log(), "the engine waiting")
                assert 0 < count < 100
                assert open_count(engine) < 100
            flooding.join()
            assert count == 500
            assert frontend.queues[0].request(IN, read_bytes=512)[0] == OK
        os.close(fd)


@contextlib.contextmanager
def descriptors_on_their_way(count: int) -> Iterator[None]:
    """Keep so many descriptors in messages that nobody reads."""
    ends: list[socket.socket] = []
    fd = os.memfd_create("on its way")
    for _ in range(-(-count // MAX_FDS)):
        ends += socket.socketpair()
        socket.send_fds(ends[-1], [b"here"], [fd] * MAX_FDS)
    os.close(fd)
    yield
    for end in ends:
        end.close()


def open_count(engine: Engine) -> int:
    """Descriptors of the supervisor."""
    return len(os.listdir(f"/proc/{engine.process.pid}/fd"))


def test_descriptors_that_others_have_on_their_way() -> None:
    """Nothing can be passed on while there are too many (unix(7), ETOOMANYREFS): the change is made later."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))

    fd = memory_file("changed")
    with EngineWithWorkers(*OPTIONS, prepare=limit) as engine, raw_frontend(engine) as frontend:
        before = open_count(engine)
        with descriptors_on_their_way(2 * OPEN_FILES):
            change = threading.Thread(target=frontend.connection.add_region, args=(region_at(0), fd))
            change.start()
            eventually(lambda: open_count(engine) >= before + 4, "messages that hold copies")
        change.join()
        eventually(lambda: all(has_mapped(pid, "changed") for pid in engine.children()), "all mappings")
        assert frontend.queues[0].request(IN, read_bytes=512)[0] == OK
    os.close(fd)
