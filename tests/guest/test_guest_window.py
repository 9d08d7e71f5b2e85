"""A real guest reads and writes through the DAX window, which its front end maps files into (QEMU 11.1).

Its engine is asked how many requests that took. The windows have room for half of what is read, so that the
guest gives pieces back. Fault model: SIGKILL of the dispatcher, which asks for what is mapped, and of the
control plane.
"""

import hashlib
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from scripts.guest_machine import WINDOW_QEMU, Machine, Share, busybox
from tests.rigs.control_client import ControlClient
from tests.rigs.guest import Guest
from tests.rigs.many_drives import ManyDrives

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="files are opened by their handles: root only"),
]

MIB = 1 << 20
CHUNK = 2 * MIB
"""What a guest maps at a time, and what the sizes of files are multiples of that QEMU maps to their end."""


class WindowGuest(NamedTuple):
    """A guest, and an engine whose drives it has at /mnt/always and /mnt/inode, mounted so."""

    guest: Guest
    engine: ManyDrives
    folder: Path


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WindowGuest]:
    if not WINDOW_QEMU.exists():
        pytest.skip("no QEMU with a DAX window; scripts/setup-guest-window says why")
    names = ("always", "inode")
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="ringblk-test-") as directory:
        folder = Path(directory)
        for name in names:
            (folder / name).mkdir()
        drives = {
            name: {
                "kind": "fs",
                "shared_dir": str(folder / name),
                "tag": name,
                "dax": name,
                "dax_window": 8 * MIB,
            }
            for name in names
        }
        with ManyDrives(drives) as engine:
            shares = [Share(engine.socket_path(name), name, has_window=True) for name in names]
            with Guest(Machine(shares=shares), tmp_path_factory.mktemp("guest")) as guest:
                for name in names:
                    guest.run(f"mkdir /mnt/{name} && mount -t virtiofs -o dax={name} {name} /mnt/{name}")
                yield WindowGuest(guest, engine, folder)
                guest.run("umount /mnt/always /mnt/inode")
                guest.power_off()


def counts(control: ControlClient, drive: str) -> dict[str, int]:
    """How many requests of each kind a drive has had."""
    operations = control.get(f"/drives/{drive}/stats")["operations"]
    return {found["operation"]: found["request_count"] for found in operations}


def make_file(path: Path, size_bytes: int) -> str:
    """A file of anything; its SHA-256."""
    path.write_bytes(random.Random(path.name).randbytes(size_bytes))
    return digest_of(path)


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest_in_guest(guest: Guest, path: str) -> str:
    return guest.run(f"sha256sum {path}").split()[0]


@pytest.mark.parametrize("name", ["always", "inode"])
def test_a_file_is_read_and_written_without_a_request_for_data(window: WindowGuest, name: str) -> None:
    guest, control = window.guest, window.engine.control
    path = window.folder / name / "whole"
    digest = make_file(path, 8 * CHUNK)
    before = counts(control, name)
    assert digest_in_guest(guest, f"/mnt/{name}/whole") == digest
    guest.run(f"dd if=/dev/urandom of=/mnt/{name}/whole bs=64k seek=30 count=5 conv=notrunc && sync")
    after = counts(control, name)
    assert (after["read"], after["write"]) == (before["read"], before["write"])
    assert after["setupmapping"] - before["setupmapping"] >= 8
    assert after["removemapping"] > before["removemapping"]
    assert digest_of(path) != digest
    assert digest_in_guest(guest, f"/mnt/{name}/whole") == digest_of(path)
    changed = b"changed on the host"
    with path.open("r+b") as file:  # the pages are the same: there is nothing to be told
        file.seek(CHUNK)
        file.write(changed)
    read = f"dd if=/mnt/{name}/whole bs=1 skip={CHUNK} count={len(changed)}"
    assert guest.run(f"{read} 2>/dev/null") == changed.decode()
    assert counts(control, name)["read"] == before["read"]


def test_a_program_runs_from_the_window(window: WindowGuest) -> None:
    """Its pages are mapped privately."""
    program = busybox()
    assert program is not None
    content = program.read_bytes()
    path = window.folder / "always" / "busybox"
    path.write_bytes(content.ljust(-(-len(content) // CHUNK) * CHUNK, b"\0"))
    path.chmod(0o755)
    assert window.guest.run("/mnt/always/busybox echo from the window") == "from the window"
    assert counts(window.engine.control, "always")["read"] == 0


def test_files_of_any_size_are_right_with_inode(window: WindowGuest) -> None:
    """Those that cannot be mapped to their end are read and written by requests; they grow and shrink."""
    guest, folder = window.guest, window.folder / "inode"
    before = counts(window.engine.control, "inode")
    for size_bytes in (1, 5000, CHUNK - 1, CHUNK + 1, 5 * MIB + 7):
        digest = make_file(folder / "odd", size_bytes)
        assert digest_in_guest(guest, "/mnt/inode/odd") == digest
        (folder / "odd").unlink()
        guest.run("until [ ! -e /mnt/inode/odd ]; do :; done")
    guest.run("dd if=/dev/urandom of=/mnt/inode/made bs=100k count=7")
    guest.run("cd /mnt/inode && echo appended >>made && truncate -s 300000 made && cp made copy")
    guest.run("cmp /mnt/inode/made /mnt/inode/copy && sync")
    assert digest_in_guest(guest, "/mnt/inode/made") == digest_of(folder / "copy")
    after = counts(window.engine.control, "inode")
    assert after["read"] > before["read"]
    assert after["write"] > before["write"]


def test_the_window_outlives_those_who_ask_for_it(window: WindowGuest) -> None:
    guest, engine = window.guest, window.engine
    path = window.folder / "always" / "outlived"
    digest = make_file(path, 6 * CHUNK)
    assert digest_in_guest(guest, "/mnt/always/outlived") == digest
    for role in ("dispatcher", "control plane") * 2:
        if role == "dispatcher":
            engine.kill_dispatcher("always")
        else:
            engine.kill_control_plane()
        guest.run("dd if=/dev/urandom of=/mnt/always/outlived bs=1M seek=2 count=7 conv=notrunc && sync")
        assert digest_in_guest(guest, "/mnt/always/outlived") == digest_of(path)
    assert counts(engine.control, "always")["read"] == 0
