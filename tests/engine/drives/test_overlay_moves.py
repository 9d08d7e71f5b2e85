"""A guest moves with a copy-on-write drive, whose overlay both engines have open.

Fault model: the engines are on one host, or the next finds nothing but what is on the disk (another host,
whose live maps do not count); layers change at either engine; a move is cancelled; the engine that the guest
leaves is killed once it has given the overlay up, or while it has it; so are dispatchers and the control
plane of the one that waits for it.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ringblk import BackendGone
from ringblk.workers.layers.folder import LIVE
from ringblk.workers.layers.form import LIVE_MAGIC
from tests.rigs.dirty_log import logged
from tests.rigs.engine_rig import RawFrontend, eventually
from tests.rigs.inline_device import IN, OK, OUT
from tests.rigs.many_drives import ManyDrives

SIZE_BYTES = 1 << 20
BLOCK_BYTES = 4096
NAME = "vm"
WAITS = "the queues wait for the image"


class Guest(RawFrontend):
    """A front end that takes its queue from engine to engine, and checks all that it has written."""

    def __init__(self, engine: ManyDrives, base: bytes) -> None:
        super().__init__(connected(engine))
        self.set_up()
        self.expected = bytearray(base)

    def write(self, block: int, text: str) -> None:
        data = text.encode().ljust(BLOCK_BYTES, b".")
        self.expected[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES] = data
        assert self.queues[0].request(OUT, block * BLOCK_BYTES // 512, data=data)[0] == OK

    def check(self) -> None:
        for offset in range(0, len(self.expected), SIZE_BYTES // 4):
            status, data = self.queues[0].request(IN, offset // 512, read_bytes=SIZE_BYTES // 4)
            assert status == OK
            assert data == self.expected[offset : offset + SIZE_BYTES // 4]

    def leave(self) -> None:
        """Stop while writes are logged, as when the guest moves away."""
        with logged(self):
            self.connection.get_vring_base(0)

    def arrive(self, engine: ManyDrives) -> None:
        self.connection.close()
        self.connect(connected(engine))
        self.set_up()


def connected(engine: ManyDrives) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX)
    connected.connect(str(engine.socket_path(NAME)))
    return connected


def snapshot(engine: ManyDrives, name: str) -> tuple[int, str]:
    status, answer = engine.control.ask("POST", f"/drives/{NAME}/snapshots", {"name": name})
    return status, str(answer)


@contextmanager
def engines_on(folder: Path, base: Path, *locks: str) -> Iterator[list[ManyDrives]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(ManyDrives({NAME: {"base": str(base), "overlay": str(folder), "lock": lock}}))
            for lock in locks
        ]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base"
    path.write_bytes(os.urandom(SIZE_BYTES))
    return path


def forget_live_maps(folder: Path) -> None:
    """As another host finds them: of another boot."""
    for live in folder.rglob(LIVE):
        with live.open("r+b") as file:
            assert file.read(8) == LIVE_MAGIC
            file.seek(16)
            file.write(b"another host    ")


@pytest.mark.parametrize("is_other_host", [False, True], ids=["one host", "two hosts"])
def test_what_was_written_and_which_layers_there_are_goes_along(
    tmp_path: Path, base: Path, is_other_host: bool
) -> None:
    folder = tmp_path / "overlay"
    with engines_on(folder, base, "running", "running") as engines:
        guest = Guest(engines[0], base.read_bytes())
        for turn in range(5):
            here, there = engines[turn % 2], engines[(turn + 1) % 2]
            guest.write(turn, f"turn {turn}")
            guest.write(100, f"again in turn {turn}")
            if turn != 2:
                assert snapshot(here, f"after {turn}")[0] == 201
                guest.write(50 + turn, f"after snapshot {turn}")
            status, answer = snapshot(there, "of another's")
            assert (status, "another engine may have the overlay" in answer) == (400, True), answer
            guest.leave()
            if is_other_host:
                forget_live_maps(folder)
            guest.arrive(there)
            guest.check()
        assert guest.queues[0].request(OUT, data=bytes(BLOCK_BYTES))[0] == OK
        guest.close()


def test_a_cancelled_move_gives_the_overlay_back(tmp_path: Path, base: Path) -> None:
    with engines_on(tmp_path / "overlay", base, "auto", "running") as engines:
        guest = Guest(engines[0], base.read_bytes())
        guest.write(3, "before the move")
        for turn in range(3):
            guest.leave()
            arriving = RawFrontend(connected(engines[1]))
            arriving.set_up()
            arriving.queues[0].offer(IN, read_bytes=512)
            arriving.queues[0].wait_used(1)
            arriving.close()  # the other engine gives it back
            guest.start_queue(0)
            guest.write(4 + turn, f"cancelled {turn} times")
            guest.check()
        assert snapshot(engines[0], "after that")[0] == 201
        guest.close()


def test_an_engine_that_is_cancelled_while_it_waits_takes_nothing(tmp_path: Path, base: Path) -> None:
    with engines_on(tmp_path / "overlay", base, "auto", "running") as engines:
        guest = Guest(engines[0], base.read_bytes())
        guest.write(3, "before the move")
        arriving = RawFrontend(connected(engines[1]))
        arriving.set_up()
        arriving.queues[0].offer(IN, read_bytes=512)
        eventually(lambda: WAITS in engines[1].log(), "the queue waits")
        assert arriving.connection.get_vring_base(0) == 0
        guest.write(4, "while the other stopped")
        guest.check()
        arriving.close()
        guest.close()


@pytest.mark.parametrize("has_left", [True, False], ids=["once it has left", "while it has it"])
def test_the_engine_that_the_guest_leaves_is_killed(tmp_path: Path, base: Path, has_left: bool) -> None:
    with engines_on(tmp_path / "overlay", base, "auto", "running") as engines:
        guest = Guest(engines[0], base.read_bytes())
        for block in (3, 4, 200):
            guest.write(block, f"block {block}")
        assert snapshot(engines[0], "first")[0] == 201
        guest.write(4, "in the second layer")
        if has_left:
            guest.leave()
        engines[0].kill()
        guest.arrive(engines[1])
        guest.check()
        guest.write(5, "at the other engine")
        assert snapshot(engines[1], "second")[0] == 201
        guest.check()
        guest.close()


@pytest.mark.parametrize("killed", ["dispatcher", "control plane"])
def test_the_engine_that_waits_for_the_overlay_loses_a_process(
    tmp_path: Path, base: Path, killed: str
) -> None:
    with engines_on(tmp_path / "overlay", base, "auto", "running") as engines:
        guest = Guest(engines[0], base.read_bytes())
        for block in (3, 4, 200):
            guest.write(block, f"block {block}")
        arriving = RawFrontend(connected(engines[1]))
        arriving.set_up()
        arriving.queues[0].offer(IN, 3 * BLOCK_BYTES // 512, read_bytes=512)
        eventually(lambda: WAITS in engines[1].log(), "the queue waits")
        if killed == "dispatcher":
            engines[1].kill_dispatcher(NAME)
        else:
            engines[1].kill_control_plane()
        assert arriving.queues[0].driver.used() == []
        guest.leave()
        arriving.queues[0].wait_used(1)
        status, data = arriving.queues[0].request(IN, 4 * BLOCK_BYTES // 512, read_bytes=BLOCK_BYTES)
        assert (status, data) == (OK, bytes(guest.expected[4 * BLOCK_BYTES : 5 * BLOCK_BYTES]))
        arriving.close()
        guest.close()


def test_who_has_given_it_up_begins_anew_after_its_control_plane_has_died(tmp_path: Path, base: Path) -> None:
    with engines_on(tmp_path / "overlay", base, "running", "running") as engines:
        guest = Guest(engines[0], base.read_bytes())
        guest.write(3, "first")
        other = Guest(engines[1], b"")
        guest.leave()
        other.expected = guest.expected
        other.write(4, "at the other")
        engines[0].kill_control_plane()
        other.write(5, "meanwhile")
        other.leave()
        guest.start_queue(0)
        guest.check()
        assert snapshot(engines[0], "here again")[0] == 201
        guest.write(6, "here again")
        guest.check()
        other.close()
        guest.close()


def test_a_drive_that_has_grown_is_as_large_at_the_next_engine(tmp_path: Path, base: Path) -> None:
    with engines_on(tmp_path / "overlay", base, "running", "running") as engines:
        guest = Guest(engines[0], base.read_bytes())
        engines[0].control.change(f"/drives/{NAME}", size_bytes=2 * SIZE_BYTES)
        guest.expected += bytes(SIZE_BYTES)
        guest.write(300, "behind its former end")
        guest.leave()
        guest.arrive(engines[1])
        guest.check()
        guest.write(301, "behind its former end at the other")
        assert engines[1].control.get(f"/drives/{NAME}")["state"]["size_bytes"] == 2 * SIZE_BYTES
        guest.close()


def test_an_overlay_that_cannot_be_taken_ends_the_session_and_nothing_else(
    tmp_path: Path, base: Path
) -> None:
    folder = tmp_path / "overlay"
    with engines_on(folder, base, "running", "running") as engines:
        guest = Guest(engines[0], base.read_bytes())
        guest.write(3, "before")
        guest.leave()
        superblock = (folder / "map").read_bytes()[:4096]
        with (folder / "map").open("r+b") as file:
            file.write(bytes(4096))
        guest.connection.close()
        arriving = RawFrontend(connected(engines[1]))
        with contextlib.suppress(BackendGone):  # it may have been refused by then
            arriving.set_up()
        eventually(lambda: "the overlay cannot be gone on with" in engines[1].log(), "the refusal")
        with pytest.raises(BackendGone):
            arriving.connection.get_queue_num()
        arriving.close()
        with (folder / "map").open("r+b") as file:
            file.write(superblock)
        guest.connect(connected(engines[1]))
        guest.set_up()
        guest.check()
        guest.close()
