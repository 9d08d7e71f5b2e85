"""As many memory regions as are offered: plugged, used, taken away in any order, while processes die.

Fault model: a hypervisor that plugs memory in small pieces, a driver that has requests in all of them.
"""

import contextlib
import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringblk import BackendGone
from ringblk.engine.frontend.request import BackendRefused
from ringblk.shm.memory.region import MemoryRegion
from ringblk.shm.state.reader import read_queue
from ringblk.shm.state.segment import StateSegment
from tests.rigs.engine_rig import Engine, EngineWithWorkers, RawFrontend, eventually, raw_frontend
from tests.rigs.inline_device import IN, OK, OUT, UVA_OFFSET

OPTIONS = ("--backend=ram_disk:RamDisk", "--backend-arg=size_bytes=1048576", "--workers=2")
PLUGGED_GPA = 1 << 40
PAGE = 4096
MEM_SLOTS = 509


class PluggedMemory:
    """A page for each slot, in a file of all of them; gaps between them in guest addresses."""

    def __init__(self, frontend: RawFrontend, count: int) -> None:
        self.frontend = frontend
        self.fd = os.memfd_create("plugged")
        os.ftruncate(self.fd, count * PAGE)
        self.regions = [
            MemoryRegion(gpa, PAGE, gpa + UVA_OFFSET, place * PAGE)
            for place, gpa in enumerate(PLUGGED_GPA + 2 * place * PAGE for place in range(count))
        ]

    def plug(self, place: int) -> None:
        self.frontend.connection.add_region(self.regions[place], self.fd)

    def unplug(self, place: int) -> None:
        self.frontend.connection.remove_region(self.regions[place])

    def unplug_all(self, count: int) -> None:
        for place in range(count):
            self.unplug(place)

    def check(self, places: list[int]) -> None:
        """Write from each of these pages and read back into it."""
        queue = self.frontend.queues[0]
        driver = queue.driver
        for place in places:
            gpa = self.regions[place].gpa
            sector = place % 2048
            content = place.to_bytes(4, "little") * 128
            os.pwrite(self.fd, content + bytes(512), place * PAGE)
            for request_type, offset_bytes in ((OUT, 0), (IN, 512)):
                driver.forget_places()
                header = driver.place(request_type.to_bytes(8, "little") + sector.to_bytes(8, "little"))
                status = driver.place(b"\xff")
                data = (gpa + offset_bytes, 512, request_type == IN)
                driver.offer(driver.make_chain([(header, 16, False), data, (status, 1, True)]))
                queue.kick()
                queue.wait_used(1)
                assert driver.read(status, 1)[0] == OK
            assert os.pread(self.fd, 1024, place * PAGE) == 2 * content

    def close(self) -> None:
        os.close(self.fd)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with EngineWithWorkers(*OPTIONS) as engine:
        yield engine


@pytest.fixture
def plugged(engine: Engine) -> Iterator[PluggedMemory]:
    with raw_frontend(engine) as frontend:
        memory = PluggedMemory(frontend, MEM_SLOTS - 1)  # one slot is the rings'
        yield memory
        memory.close()


def child_named(engine: Engine, name: str) -> int | None:
    for pid in sorted(engine.children()):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().startswith(name):
                return pid
    return None


def replace(engine: Engine, name: str) -> None:
    """Kill a process and wait until another has its place."""
    pid = child_named(engine, name)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: child_named(engine, name) not in (None, pid), f"another {name}")


def mapped_count(engine: Engine) -> set[int]:
    return {Path(f"/proc/{pid}/maps").read_text().count("memfd:plugged") for pid in sorted(engine.children())}


def test_all_slots_are_used_and_emptied_while_processes_die(engine: Engine, plugged: PluggedMemory) -> None:
    assert plugged.frontend.connection.get_max_mem_slots() == MEM_SLOTS
    order = list(range(MEM_SLOTS - 1))
    dice = random.Random(509)
    dice.shuffle(order)
    for place in order:
        plugged.plug(place)
    with pytest.raises(BackendRefused):
        plugged.frontend.connection.add_region(MemoryRegion(0, PAGE, UVA_OFFSET, 0), plugged.fd)
    plugged.check(order)
    replace(engine, "rb-dispatcher")
    plugged.check(order[::16])
    replace(engine, "rb-worker-0")
    replace(engine, "rb-worker-1")
    plugged.check(order[::16])
    eventually(lambda: mapped_count(engine) == {MEM_SLOTS - 1}, "all mapped by all")
    dice.shuffle(order)
    for number in range(0, len(order), 64):
        for place in order[number : number + 64]:
            plugged.unplug(place)
        replace(engine, ("rb-dispatcher", "rb-worker-0")[number // 64 % 2])
        plugged.check(order[number + 64 :][:8])
    eventually(lambda: mapped_count(engine) == {0}, "nobody's mapping left")
    plugged.plug(0)
    plugged.check([0])
    assert "cannot be reached" not in engine.log()


def test_a_region_is_acknowledged_when_the_dispatcher_has_it(engine: Engine, plugged: PluggedMemory) -> None:
    """The driver's next request may lie in it."""
    dispatcher_pid = child_named(engine, "rb-dispatcher")
    assert dispatcher_pid is not None
    workers = [pid for pid in sorted(engine.children()) if pid != dispatcher_pid]
    os.kill(dispatcher_pid, signal.SIGSTOP)
    plugging = threading.Thread(target=plugged.plug, args=(0,))
    plugging.start()
    eventually(
        lambda: all("memfd:plugged" in Path(f"/proc/{pid}/maps").read_text() for pid in workers),
        "mapped by the workers, who are told first",
    )
    assert plugging.is_alive()
    os.kill(dispatcher_pid, signal.SIGCONT)
    plugging.join()
    plugged.check([0])


def test_regions_go_while_requests_are_in_all_of_them(engine: Engine, plugged: PluggedMemory) -> None:
    """Each lives until the last request in it is done, whoever dies meanwhile."""
    count = 200
    for place in range(count):
        plugged.plug(place)
    queue = plugged.frontend.queues[0]
    driver = queue.driver
    stopped = [pid for pid in engine.children() if pid != child_named(engine, "rb-dispatcher")]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    heads = range(0, driver.queue_size, 2)
    statuses = []
    for number, head in enumerate(heads):
        header = driver.place(IN.to_bytes(16, "little"))
        statuses.append(driver.place(b"\xff"))
        share = range(number, count, len(heads))
        parts = [(plugged.regions[place].gpa, 512, True) for place in share]
        chain = [(header, 16, False), *parts, (statuses[-1], 1, True)]
        driver.make_chain(chain, indirect=True, indices=[head])
    driver.offer(*heads)
    os.pwrite(plugged.fd, b"\xee" * PAGE * count, 0)
    queue.kick()
    state = StateSegment.attach(engine.segment_name)
    eventually(lambda: read_queue(state, 0)[4] == len(heads), "all of them in flight")
    state.close()
    removing = threading.Thread(target=plugged.unplug_all, args=(count,))
    removing.start()
    replace(engine, "rb-dispatcher")
    assert removing.is_alive()
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    removing.join()
    queue.wait_used(len(heads))
    assert {driver.read(status, 1)[0] for status in statuses} == {OK}
    for place in range(count):
        assert os.pread(plugged.fd, 512, place * PAGE) == bytes(512)
    eventually(lambda: mapped_count(engine) == {0}, "nobody's mapping left")


def test_what_is_lost_of_many_regions_is_named(engine: Engine, plugged: PluggedMemory) -> None:
    """The last of them as well as the first."""
    for place in range(MEM_SLOTS - 1):
        plugged.plug(place)
    plugged.check([MEM_SLOTS - 2])
    os.ftruncate(plugged.fd, (MEM_SLOTS - 2) * PAGE)
    lost = plugged.regions[-1]
    with contextlib.suppress(BackendGone):
        queue = plugged.frontend.queues[0]
        header = queue.driver.place(OUT.to_bytes(16, "little"))
        status = queue.driver.place(b"\xff")
        queue.driver.offer(
            queue.driver.make_chain([(header, 16, False), (lost.gpa, 512, False), (status, 1, True)])
        )
        queue.kick()
        assert plugged.frontend.connection.socket.recv(1) == b""
    eventually(lambda: f"the memory region at {lost.gpa:#x} of" in engine.log(), "the log line")
    with raw_frontend(engine) as frontend:
        assert frontend.queues[0].request(IN, read_bytes=512)[0] == OK
