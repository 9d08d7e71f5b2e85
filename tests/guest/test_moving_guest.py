"""A guest moves between two QEMUs, and so between two engines on one image, while it checks what it writes.

Fault model: the guest moves at any moment of its work, and moves back; a move is cancelled while memory is
copied, or when the guest stands still already. Pages that only the device has written (of files that are
read into the page cache on the way) must arrive as all others do. The guest does not zero pages when it
takes them, which would mark them. An engine that marks nothing must be caught.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from scripts.guest_machine import Drive, Machine
from tests.rigs import forgetful_engine
from tests.rigs.guest import Guest, GuestError
from tests.rigs.guest_backend import PROGRAM, serve
from tests.rigs.guest_image import make_image, run_on_host
from tests.rigs.image_file import MIB
from tests.rigs.moving_guest import Move

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]

BEGIN_TO_WRITE = """
cat >/run/writer <<'END'
read_back() { dd if=$file bs=64k iflag=direct 2>/dev/null | md5sum; }
cd /mnt
round=0
while [ ! -e /run/enough ]; do
  file=written.$((round % 8))
  [ ! -e $file ] || [ "$(read_back)" = "$(cat /run/$file)" ] || echo old
  dd if=/dev/urandom of=/run/data bs=64k count=4 2>/dev/null
  md5sum </run/data >/run/$file
  dd if=/run/data of=$file bs=64k oflag=direct 2>/dev/null || echo write
  [ "$(read_back)" = "$(cat /run/$file)" ] || echo new
  round=$((round + 1))
done
echo $round
END
sh /run/writer </dev/null >/run/written 2>&1 &
"""
"""Write files past the page cache, read each back at once and seven files later; tell what differs."""
END_WRITING = "touch /run/enough; until [ -s /run/written ]; do sleep 0.1; done; cat /run/written"
MAKE_KNOWN = (
    "mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt"
    " && dd if=/dev/urandom of=/mnt/known bs=1M count=24 2>/dev/null && sync && md5sum /mnt/known"
)
FORGET_KNOWN = "sync; echo 3 >/proc/sys/vm/drop_caches"
READ_KNOWN = "cat /mnt/known >/dev/null"
SUM_KNOWN = "md5sum /mnt/known"


class Stable:
    """Two engines on one image, and the QEMUs that a guest moves between."""

    def __init__(self, folder: Path, cleanup: contextlib.ExitStack, program: Sequence[str] = PROGRAM) -> None:
        self._folder = folder
        self._cleanup = cleanup
        self._guests = 0
        self.image = make_image(folder / "disk.img", 64 * MIB)
        self.sockets = []
        for name, lock in (("first", "auto"), ("second", "running")):
            (folder / name).mkdir()
            backend = serve(self.image, folder / name, options=(f"--lock={lock}",), program=program)
            self.sockets.append(cleanup.enter_context(backend))

    def guest(self, engine: int, *, is_incoming: bool = True) -> Guest:
        """A QEMU at one of the two engines; it ends with the test at the latest."""
        self._guests += 1
        folder = self._folder / f"guest-{self._guests}"
        folder.mkdir()
        drive = Drive(self.sockets[engine])
        machine = Machine([drive], memory_mib=192, kernel_arguments="init_on_alloc=0")
        return self._cleanup.enter_context(Guest(machine, folder, is_incoming=is_incoming))

    def move(self, source: Guest, target: Guest) -> Move:
        return Move(source, target, self._folder)


@pytest.fixture
def cleanup() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def test_a_guest_moves_and_moves_back(tmp_path: Path, cleanup: contextlib.ExitStack) -> None:
    stable = Stable(tmp_path, cleanup)
    guest = stable.guest(0, is_incoming=False)
    known = guest.run(MAKE_KNOWN)
    guest.run(BEGIN_TO_WRITE)

    target = stable.guest(1)
    move = stable.move(guest, target)
    move.begin()
    move.cancel()
    target.end()

    target = stable.guest(1)
    move = stable.move(guest, target)
    move.begin(stops_before_end=True)
    move.wait_stopped()
    move.cancel()
    target.end()
    assert guest.run("dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null; echo $?") == "0"

    for engine in (1, 0):
        guest.run(FORGET_KNOWN)
        target = stable.guest(engine)
        move = stable.move(guest, target)
        move.begin()
        guest.run(READ_KNOWN)
        move.finish()
        guest.end()
        guest = target
        assert guest.run(SUM_KNOWN) == known
    assert int(guest.run(END_WRITING)) > 8
    assert guest.run(f"{FORGET_KNOWN}; {SUM_KNOWN}") == known
    assert "I/O error" not in guest.run("dmesg")
    guest.run("umount /mnt")
    guest.power_off()
    run_on_host("e2fsck", "-fn", stable.image)


def test_an_engine_that_marks_nothing_is_caught(tmp_path: Path, cleanup: contextlib.ExitStack) -> None:
    stable = Stable(tmp_path, cleanup, forgetful_engine.PROGRAM)
    guest = stable.guest(0, is_incoming=False)
    known = guest.run(MAKE_KNOWN)
    guest.run(FORGET_KNOWN)
    target = stable.guest(1)
    move = stable.move(guest, target)
    move.begin()
    guest.run(READ_KNOWN)
    move.finish()
    with contextlib.suppress(GuestError):  # without its used ring it may not get that far
        assert target.status_of(SUM_KNOWN) != (0, known)
