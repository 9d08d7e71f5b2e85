"""A shared folder and a guest that wants much: what is bounded, and what does not wait all the same.

Fault model: a guest that looks up whatever there is, forgets nothing, and has as many requests in flight as
its rings hold, of which each may take as long as it likes; a host on which a process has no descriptor left.
"""

import contextlib
import os
import resource
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from tests.rigs.engine_rig import Engine, Gate
from tests.rigs.python_share import Served
from tests.rigs.share import (
    FORGET,
    FSYNC,
    GETATTR,
    HEADER_BYTES,
    INTERRUPT,
    QUEUE_SIZE,
    READ,
    ROOT,
    NoDescriptorError,
    ShareFrontend,
    share_engine,
)
from tests.stress.many_files import know_many_files

is_root = pytest.mark.skipif(os.geteuid() != 0, reason="files are opened by their handles: root only")
T = TypeVar("T")
GATED_FILE = 2
OPEN_LIMIT = 1024
OTHERS = 100
"""Descriptors that a process has besides inodes, at most."""


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


@pytest.fixture
def share(shm_path: Path) -> Iterator[tuple[Engine, ShareFrontend]]:
    """A folder whose dispatcher does all by itself."""
    with share_engine(shm_path, "--io-engine=sync") as engine:
        frontend = ShareFrontend(engine)
        yield engine, frontend
        frontend.close()


def gated(gate: Gate) -> tuple[str, ...]:
    """Options of a file system that waits for a gate."""
    return (
        "--file-system=gated_folder:GatedFolder",
        f"--file-system-arg=gate={gate.path}",
        f"--sandbox-allow={gate.path.parent}",
    )


def descriptors_of(pid: int) -> list[int]:
    return [int(name) for name in os.listdir(f"/proc/{pid}/fd")]


@is_root
def test_descriptors_are_bounded_whatever_the_guest_looks_up(
    share: tuple[Engine, ShareFrontend], shm_path: Path
) -> None:
    """A host that runs out of nothing: more inodes than a process has open, all of them known and used."""
    engine, guest = share
    names = [f"file-{number}" for number in range(OPEN_LIMIT + 200)]
    for name in names:
        (shm_path / name).write_bytes(name.encode())
    nodes = {name: guest.lookup(name).node_id for name in names}
    for pid in engine.children():
        assert len(descriptors_of(pid)) <= OPEN_LIMIT + OTHERS
    for name in names[:10] + names[-10:]:  # those of which nothing is open any more, and the last
        assert guest.read(nodes[name], 100) == name.encode()
    assert len(set(nodes.values())) == len(names)


def asked_twice(ask: Callable[[], T]) -> tuple[T, bool]:
    """What is granted at once, or for want of a descriptor the second time; whether it was so."""
    with contextlib.suppress(NoDescriptorError):
        return ask(), False
    return ask(), True


@is_root
def test_many_files_are_known_whoever_dies(shm_path: Path) -> None:
    """`./scripts/stress --machine=many_files` has a million of them."""
    know_many_files(shm_path, 2000, 1)


@is_root
def test_who_has_no_descriptor_left_says_so_once(share: tuple[Engine, ShareFrontend], shm_path: Path) -> None:
    """What was open is not in the way of the next request, and no file of the guest's is lost."""
    engine, guest = share
    (pid,) = engine.children()
    names = [f"file-{number}" for number in range(40)]
    for name in names:
        (shm_path / name).write_bytes(b"contents")
    known = [guest.lookup(name).node_id for name in names[:20]]
    limit = max(descriptors_of(pid)) + 1
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))
    refused = []
    for name in names[20:]:
        entry, was_refused = asked_twice(partial(guest.lookup, name))
        known.append(entry.node_id)
        refused.append(was_refused)
        assert guest.read(known[len(known) // 2], 8) == b"contents"
    assert not all(refused)
    for name, node_id in zip(names, known, strict=True):
        asked_twice(partial(guest.unlink, name))
        assert guest.read(node_id, 8) == b"contents"


@is_root
def test_a_file_that_cannot_be_kept_is_not_removed(
    share: tuple[Engine, ShareFrontend], shm_path: Path
) -> None:
    """Where a name is a file's last, and there is no descriptor to keep the file by, the name stays."""
    engine, guest = share
    (pid,) = engine.children()
    (shm_path / "file").write_bytes(b"contents")
    guest.getattr(ROOT)
    used = descriptors_of(pid)
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    lowest_free = min(set(range(len(used) + 1)) - set(used))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    with pytest.raises(NoDescriptorError):
        guest.unlink("file")
    assert (shm_path / "file").exists()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    guest.unlink("file")
    assert not (shm_path / "file").exists()


def offer(
    guest: ShareFrontend,
    opcode: int,
    argument: bytes,
    room: int,
    *,
    queue_index: int,
    place: int,
    node_id: int = GATED_FILE,
) -> int:
    """Offer a request, as the `place`-th of its queue; where its reply is."""
    request = guest.header(opcode, node_id, len(argument)) + argument
    return guest.offer([request], HEADER_BYTES + room, queue_index=queue_index, head=2 * place)


def error_at(guest: ShareFrontend, reply_gpa: int) -> int:
    error: int = struct.unpack("<IiQ", guest.frontend.queues[0].driver.read(reply_gpa, HEADER_BYTES))[1]
    return -error


def test_what_takes_long_leaves_a_worker_to_the_others(start: Callable[..., Served], gate: Gate) -> None:
    """As many fsync as the ring holds wait for a disk; who asks for attributes does not."""
    guest = start(*gated(gate), "--workers=2").guest
    guest.lookup("file")
    replies = [offer(guest, FSYNC, bytes(16), 0, queue_index=1, place=place) for place in range(8)]
    gate.wait_for_requests(1)
    guest.queue_index = 0
    assert guest.getattr(2).size == 4096
    assert guest.getattr(ROOT).nlink == 2
    with gate.held_open():
        guest.frontend.queues[1].wait_used(8)
    assert [error_at(guest, reply) for reply in replies] == [0] * 8


def test_what_must_not_wait_finds_a_slot(start: Callable[..., Served], gate: Gate) -> None:
    """As many requests as there are slots wait; FORGET and INTERRUPT go through, and all else when it can."""
    served = start(*gated(gate), "--queue-size=16", "--num-queues=2", "--workers=2")
    served.guest.close()
    guest = served.guest = ShareFrontend(served.engine, queue_count=3)
    guest.lookup("file")
    argument = struct.pack("<QQIIQII", 0, 0, 64, 0, 0, 0, 0)
    for queue_index in (1, 2):
        for place in range(32):
            offer(guest, READ, argument, 64, queue_index=queue_index, place=place)
    gate.wait_for_requests(2)
    guest.forget(GATED_FILE)
    assert guest.send([guest.header(INTERRUPT, 0, 8), struct.pack("<Q", 2)], None, queue_index=0)[0] == 0
    with gate.held_open():
        for queue_index in (1, 2):
            guest.frontend.queues[queue_index].wait_used(32)
    guest.lookup("file")


@is_root
def test_no_limit_holds_up_what_the_guest_forgets(shm_path: Path) -> None:
    """The tokens of half a minute are gone; FORGET costs none, and who waits for some goes on waiting."""
    (shm_path / "file").touch()
    with share_engine(shm_path, "--iops=1", "--iops-burst=4") as engine:
        guest = ShareFrontend(engine)
        node_id = guest.lookup("file").node_id
        count = QUEUE_SIZE // 2
        for place in range(count):
            offer(guest, GETATTR, bytes(16), 104, queue_index=1, place=place, node_id=ROOT)
        for _ in range(4):
            readable = [guest.header(FORGET, node_id, 8), struct.pack("<Q", 0)]
            guest.send(readable, None, queue_index=0)
        assert guest.frontend.queues[1].driver.used_idx < count
        guest.close()
