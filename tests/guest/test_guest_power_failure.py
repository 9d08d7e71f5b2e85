"""The power fails under a real guest's ext4 on an overlay: what was synced is there, e2fsck finds no fault.

The fault model is in engine/crashes/history.py. The engine's overlay lies in a folder that is recorded; of
each state the drive is read through the overlay, its journal replayed, and the file system looked at.
"""

import os
import random
from pathlib import Path

import pytest

from ringblk.crashes import Recording
from ringblk.engine.crashes.folder_copy import remove_folder
from scripts.guest_machine import Drive, Machine
from tests.crash.power_failures import MIB, leave_live_map, opened
from tests.rigs.guest import Guest
from tests.rigs.guest_backend import serve
from tests.rigs.guest_image import make_image, run_on_host
from tests.rigs.recorded_folder import Record

pytestmark = pytest.mark.guest

DISK_BYTES = 48 * MIB
FILES = 12
FILE_BYTES = 20000
STATES = int(os.environ.get("RINGBLK_STATES", "30"))


def content_of(number: int) -> bytes:
    """What the guest has in a file."""
    return (f"file {number}\n".encode() * FILE_BYTES)[:FILE_BYTES]


def check_file_system(image: Path, kept: list[int]) -> None:
    """Replay the journal; then nothing is wrong, and all files are there that were synced."""
    run_on_host("e2fsck", "-E", "journal_only", "-p", image)
    run_on_host("e2fsck", "-fn", image)
    for number in kept:
        shown = run_on_host("debugfs", "-R", f"cat /kept{number}", image)
        assert content_of(number) in shown, number


def test_what_was_synced_is_there(tmp_path: Path, shm_path: Path, recorded_folder: Record) -> None:
    base, overlay = make_image(shm_path / "base", DISK_BYTES), shm_path / "overlay"
    overlay.mkdir()
    with recorded_folder(overlay) as recorded:
        options = (f"--base={base}", f"--overlay={overlay}", "--io-engine=io_uring")
        with (
            serve(None, tmp_path, options=options) as socket_path,
            Guest(Machine([Drive(socket_path)]), tmp_path) as guest,
        ):
            guest.run("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && sync")
            recorded.mark("made")
            for number in range(FILES):
                guest.run(f"yes 'lost {number}' | head -c 30000 > /mnt/lost{number}")
                guest.run(
                    f"yes 'file {number}' | head -c {FILE_BYTES} > /tmp/x;"
                    f" dd if=/tmp/x of=/mnt/kept{number} bs=4k conv=fsync 2>/dev/null"
                )
                recorded.mark(str(number))
                if number % 3 == 2:
                    guest.run(f"rm /mnt/lost{number}; fstrim /mnt || true")
    recording = Recording.read(recorded.record)
    made_at = next(mark.time for mark in recording.history.marks if mark.text == "made")
    times = [time for time in recording.history.times() if time >= made_at]
    chance = random.Random(1)
    for number in range(STATES):
        state = recording.state(1, number, times)
        after = shm_path / "after"
        state.make(after)
        leave_live_map(after, os.urandom(8192), chance)
        with opened(base, after) as backend:
            content = bytearray(DISK_BYTES)
            backend.read_at(0, content)
        image = tmp_path / "state.img"
        image.write_bytes(content)
        check_file_system(image, [int(mark.text) for mark in state.marks[1:]])
        remove_folder(after)
