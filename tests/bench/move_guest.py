"""How long a guest stands still that moves from one QEMU to another, and so from one back end to another."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from scripts.guest_machine import Drive, Machine
from tests.bench.backends import BackendSpec, RunningBackend
from tests.rigs.guest import Guest
from tests.rigs.moving_guest import Move

MEMORY_MIB = 192


@contextlib.contextmanager
def moving_guest(spec: BackendSpec, image: Path, folder: Path) -> Iterator[Callable[[], float]]:
    """What moves a guest from one of two such back ends to the other: milliseconds that it stood still."""
    folder.mkdir()
    with (
        RunningBackend(spec, image) as first,
        RunningBackend(spec, image) as second,
        contextlib.ExitStack() as cleanup,
    ):
        sockets = [Path(first.socket_path), Path(second.socket_path)]

        def guest(number: int) -> Guest:
            of_guest = folder / f"guest-{number}"
            of_guest.mkdir()
            machine = Machine([Drive(sockets[number % 2])], memory_mib=MEMORY_MIB)
            return cleanup.enter_context(Guest(machine, of_guest, is_incoming=number > 0))

        guests = [guest(0)]
        guests[0].run("dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null")

        def move() -> float:
            guests.append(guest(len(guests)))
            moving = Move(guests[-2], guests[-1], folder)
            moving.begin()
            downtime_ms: float = moving.finish()["downtime"]
            guests[-2].end()
            guests[-1].run("dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null")
            return downtime_ms

        yield move
