"""Every guest page that is written is marked in the front end's dirty log before the driver hears of it.

Fault model: processes of the engine are killed at any time, the front end gives a log that is too short, cuts
it off, or gives another while requests are in flight.
"""

import os
import random
import signal
from contextlib import closing
from pathlib import Path

import pytest

from ringblk import BackendGone, BackendRefused
from ringblk.engine.vhost_user.codes import F_LOG_ALL
from ringblk.shm.memory.region import MemoryRegion
from tests.rigs.dirty_log import LogFile, WatchedMemory, give_log, logged, switch_logging
from tests.rigs.engine_rig import MEMORY, Engine, Gate, RawFrontend, eventually, raw_frontend
from tests.rigs.inline_device import GET_ID, GPA, IN, IOERR, OK, OUT, UNSUPP, UVA_OFFSET

PAGE = 4096
ROUNDS = 60
KILLS = 12
QUEUE_SIZE = 256
INLINE = (*MEMORY, "--io-engine=sync")
WORKERS = (*MEMORY, "--io-engine=psync", "--workers=2")
EACH_WAY = pytest.mark.parametrize("options", [INLINE, WORKERS], ids=["dispatcher", "workers"])
MOST_UNCHANGED = 10  # pages of one request that were written with what they had


def new_log(frontend: RawFrontend) -> LogFile:
    return LogFile(GPA + len(frontend.ram.view))


def offer(frontend: RawFrontend, rng: random.Random, head: int = 0) -> int:
    """Offer a request of any kind and length, good or bad, somewhere in memory; where its status will be."""
    driver = frontend.queues[0].driver
    kind = rng.choice([IN, IN, OUT, GET_ID, 99])
    sector = rng.choice([rng.randrange(1000), 1 << 40])
    driver.place(bytes(rng.randrange(3 * PAGE)))  # so that the buffers lie anywhere
    header = kind.to_bytes(4, "little") + bytes(4) + sector.to_bytes(8, "little")
    sizes = [20] if kind == GET_ID else [512 * rng.randrange(1, 12) for _ in range(rng.randrange(1, 4))]
    pieces = [(driver.place(header), len(header), False)]
    pieces += [(driver.place(b"\xee" * size), size, kind != OUT) for size in sizes]
    status_gpa = driver.place(b"\xff")
    driver.offer(driver.make_chain([*pieces, (status_gpa, 1, True)], indirect=True, indices=[head]))
    return status_gpa


def carry_out(frontend: RawFrontend, rng: random.Random) -> tuple[int, set[int]]:
    """One request from beginning to end: its status, and the pages that it changed."""
    queue = frontend.queues[0]
    queue.driver.forget_places()
    status_gpa = offer(frontend, rng)
    memory = WatchedMemory(frontend)  # with all that the driver writes
    queue.kick()
    queue.wait_used(1)
    return queue.driver.read(status_gpa, 1)[0], memory.changed_pages()


def used_pages(frontend: RawFrontend) -> set[int]:
    driver = frontend.queues[0].driver
    return set(range(driver.used_gpa // PAGE, (driver.places_gpa - 1) // PAGE + 1))


@EACH_WAY
def test_what_is_written_is_marked(options: tuple[str, ...]) -> None:
    """Data, statuses, GET_ID and the used ring, of requests that succeed and of those that don't."""
    rng = random.Random(1)
    with (
        Engine(*options) as engine,
        raw_frontend(engine, queue_size=QUEUE_SIZE, cuts=[50 * PAGE + 512]) as frontend,  # type: ignore[arg-type]
    ):
        frontend.queues[0].request(OUT, 0, data=rng.randbytes(1000 * 512))
        statuses = set()
        with logged(frontend) as log:
            for _ in range(ROUNDS):
                log.clear()
                status, changed = carry_out(frontend, rng)
                statuses.add(status)
                assert changed, "nothing was written: this shows nothing"
                assert changed <= log.pages()
                assert len(log.pages()) <= len(changed) + MOST_UNCHANGED
            switch_logging(frontend, is_logged=False)
            last = log.data()
            carry_out(frontend, rng)
            assert log.data() == last
        assert statuses == {OK, IOERR, UNSUPP}


def test_what_nobody_wants_to_know_is_not_marked() -> None:
    """A log alone says nothing; a ring is marked where that is asked for, all of it at first."""
    rng = random.Random(2)
    with (
        Engine(*INLINE) as engine,
        raw_frontend(engine, queue_size=QUEUE_SIZE) as frontend,
        closing(new_log(frontend)) as log,
    ):
        give_log(frontend, log)
        carry_out(frontend, rng)
        assert log.pages() == set()
        frontend.connection.set_features(frontend.features | F_LOG_ALL)
        _, changed = carry_out(frontend, rng)
        assert log.pages() >= changed - used_pages(frontend)
        assert not log.pages() & used_pages(frontend)
        switch_logging(frontend, is_logged=True)
        assert log.pages() >= used_pages(frontend)


def test_a_log_that_comes_after_the_feature_is_used_from_then_on() -> None:
    rng = random.Random(3)
    with (
        Engine(*INLINE) as engine,
        raw_frontend(engine, queue_size=QUEUE_SIZE) as frontend,
        closing(new_log(frontend)) as log,
    ):
        switch_logging(frontend, is_logged=True)
        carry_out(frontend, rng)
        give_log(frontend, log)
        _, changed = carry_out(frontend, rng)
        assert changed <= log.pages()


def test_another_log_takes_over_with_requests_in_flight(tmp_path: Path) -> None:
    """What was begun under the first is marked in the second, where it ends."""
    gate = Gate(tmp_path)
    with (
        Engine(*gate.options(), "--workers=1") as engine,
        raw_frontend(engine) as frontend,
        closing(new_log(frontend)) as first,
        closing(new_log(frontend)) as second,
    ):
        give_log(frontend, first)
        switch_logging(frontend, is_logged=True)
        gpa = frontend.queues[0].offer(IN, 0, read_bytes=512)
        gate.wait_for_requests(1)
        give_log(frontend, second)
        before = first.data()
        gate.open()
        frontend.queues[0].wait_used(1)
        assert gpa // PAGE in second.pages()
        assert first.data() == before


@EACH_WAY
def test_killed_processes_leave_no_page_unmarked(options: tuple[str, ...]) -> None:
    """What a dead dispatcher published and had not marked yet is marked by the next."""
    rng = random.Random(4)
    with Engine(*options) as engine, raw_frontend(engine, queue_size=QUEUE_SIZE) as frontend:
        queue = frontend.queues[0]
        with logged(frontend) as log:
            for _ in range(KILLS):
                queue.driver.forget_places()
                for head in range(16):
                    offer(frontend, rng, head)
                memory = WatchedMemory(frontend)
                log.clear()
                queue.kick()
                os.kill(rng.choice(sorted(engine.children())), signal.SIGKILL)
                queue.wait_used(16)
                assert memory.changed_pages() <= log.pages()


def test_a_log_that_is_too_short_is_refused() -> None:
    with (
        Engine(*INLINE) as engine,
        raw_frontend(engine) as frontend,
        closing(new_log(frontend)) as log,
    ):
        whole_bytes = log.size_bytes
        for size_bytes in (0, whole_bytes - 1, whole_bytes + 1):  # the last is longer than its file
            log.size_bytes = size_bytes
            with pytest.raises(BackendRefused):
                give_log(frontend, log)
        log.size_bytes = whole_bytes
        give_log(frontend, log)
        switch_logging(frontend, is_logged=True)
        above = MemoryRegion(GPA + (1 << 30), PAGE, GPA + UVA_OFFSET + (1 << 30), 0)
        with pytest.raises(BackendRefused):
            frontend.connection.add_region(above, frontend.ram.fd)
        switch_logging(frontend, is_logged=False)
        frontend.connection.add_region(above, frontend.ram.fd)
        with pytest.raises(BackendRefused):
            frontend.connection.set_features(frontend.features | F_LOG_ALL)
        assert carry_out(frontend, random.Random(5))[1]
        assert "the dirty log has" in engine.log()


def test_a_log_shrinks_and_grows_with_memory_while_queues_run() -> None:
    """As QEMU does it: memory goes before its bits do, and comes after they have."""
    rng = random.Random(8)
    above = MemoryRegion(GPA + (1 << 30), PAGE, GPA + UVA_OFFSET + (1 << 30), 0)
    with (
        Engine(*INLINE) as engine,
        raw_frontend(engine, queue_size=QUEUE_SIZE) as frontend,
        closing(LogFile(above.gpa + above.size_bytes)) as large,
        closing(new_log(frontend)) as small,
    ):
        frontend.connection.add_region(above, frontend.ram.fd)
        give_log(frontend, large)
        switch_logging(frontend, is_logged=True)
        for _ in range(3):
            with pytest.raises(BackendRefused):
                give_log(frontend, small)
            _, changed = carry_out(frontend, rng)
            assert changed <= large.pages()
            large.clear()
            frontend.connection.remove_region(above)
            give_log(frontend, small)
            _, changed = carry_out(frontend, rng)
            assert changed <= small.pages()
            assert large.pages() <= used_pages(frontend)  # marked when something changes
            small.clear()
            give_log(frontend, large)
            frontend.connection.add_region(above, frontend.ram.fd)


@EACH_WAY
def test_two_rings_at_once_are_marked_each_where_it_lies(options: tuple[str, ...]) -> None:
    """Requests of both are in flight together; one ring alone may be marked besides."""
    with (
        Engine(*options, "--num-queues=2") as engine,
        raw_frontend(engine, num_queues=2) as frontend,
        logged(frontend) as log,
    ):
        first, second = (queue.driver for queue in frontend.queues)
        first.places_gpa, second.places_gpa = GPA + 32 * PAGE, GPA + 128 * PAGE
        for is_second_logged in (True, False, True):
            frontend.say_address(1, is_logged=is_second_logged)
            log.clear()
            for queue in frontend.queues:
                queue.driver.forget_places()
            data_gpas = [
                queue.offer(IN, place, read_bytes=3 * PAGE, head=2 * place)
                for place in range(4)
                for queue in frontend.queues
            ]
            for queue in frontend.queues:
                queue.wait_used(4)
            pages = log.pages()
            assert {gpa // PAGE + page for gpa in data_gpas for page in range(3)} <= pages
            assert first.used_gpa // PAGE in pages
            assert (second.used_gpa // PAGE in pages) == is_second_logged


def test_a_log_that_is_cut_off_ends_the_session() -> None:
    """A page that cannot be marked would be lost on the other host: the front end must hear of it."""
    with Engine(*INLINE) as engine:
        with raw_frontend(engine) as frontend, closing(new_log(frontend)) as log:
            give_log(frontend, log)
            switch_logging(frontend, is_logged=True)
            os.ftruncate(log.fd, 0)
            offer(frontend, random.Random(6))
            frontend.queues[0].kick()
            eventually(lambda: "the dirty log cannot be reached any more" in engine.log(), "the log line")
            with pytest.raises(BackendGone):
                frontend.connection.get_features()
        with raw_frontend(engine) as frontend:
            assert frontend.queues[0].request(IN, 0, read_bytes=512)[0] == OK


def test_only_the_log_may_change_while_a_queue_runs() -> None:
    with Engine(*INLINE) as engine, raw_frontend(engine) as frontend:
        with pytest.raises(BackendRefused):
            frontend.connection.set_features(frontend.features & ~(1 << 9))
        frontend.connection.set_features(frontend.features | F_LOG_ALL)
        with pytest.raises(BackendRefused):
            frontend.connection.set_features((frontend.features & ~(1 << 9)) | F_LOG_ALL)
        assert frontend.queues[0].request(IN, 0, read_bytes=512)[0] == OK


def test_the_log_ends_with_its_session() -> None:
    """The next front end has memory at the same addresses, and nobody marks it."""
    rng = random.Random(7)
    with Engine(*INLINE) as engine:
        with raw_frontend(engine) as frontend:
            log = new_log(frontend)
            give_log(frontend, log)
            switch_logging(frontend, is_logged=True)
            carry_out(frontend, rng)
        with closing(log), raw_frontend(engine) as frontend:
            before = log.data()
            carry_out(frontend, rng)
            assert log.data() == before
            assert not [pid for pid in engine.children() if holds(pid, "dirty-log")]


def holds(pid: int, name: str) -> bool:
    with open(f"/proc/{pid}/maps") as maps:
        return f"memfd:{name}" in maps.read()
