"""A real guest on folders that the engine shares: it compiles there, renames, maps; so does a second one.

One guest has two folders, of one engine's drives; the second has `--writeback` and `--killpriv-v2`.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from scripts.guest_machine import Machine, Share
from tests.rigs.control_client import ControlClient
from tests.rigs.guest import Guest
from tests.rigs.guest_tools import (
    COMPILE,
    build_program,
    compile_here,
    copy_compiler,
    digests,
    digests_said,
    make_tree,
)
from tests.rigs.many_drives import ManyDrives

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="files are opened by their handles: root only"),
]

RENAME_STORM = """
cd /mnt/plain && mkdir storm && cd storm
for n in 1 2 3 4; do
  ( mkdir a$n b$n && echo file $n >a$n/0
    for i in $(seq 20); do
      mv a$n/$((i - 1)) b$n/x && mv b$n/x a$n/$i && mv a$n c$n && mv c$n a$n || exit 1
      echo $n $i >new$n && mv new$n shared || exit 1
    done ) &
  jobs="$jobs $!"
done
for job in $jobs; do wait $job || exit 1; done
"""


class SharedGuest(NamedTuple):
    """A guest, the folders that it has at /mnt/plain and /mnt/writeback, and their engine."""

    guest: Guest
    plain: Path
    writeback: Path
    engine: ManyDrives


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedGuest]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="ringblk-test-") as folder:
        yield from share_with_guest(Path(folder), tmp_path_factory.mktemp("guest"))


def share_with_guest(folder: Path, log_directory: Path) -> Iterator[SharedGuest]:
    plain, writeback = folder / "plain", folder / "writeback"
    drives: dict[str, dict[str, object]] = {
        "plain": {"shared_dir": str(plain), "num_queues": 2},
        "second": {"shared_dir": str(plain)},
        "writeback": {"shared_dir": str(writeback), "writeback": True, "killpriv_v2": True},
    }
    plain.mkdir()
    writeback.mkdir()
    for name, settings in drives.items():
        settings.update(kind="fs", tag=name)
    with ManyDrives(drives) as engine:
        machine = Machine(
            shares=[
                Share(engine.socket_path("plain"), "plain", num_queues=2),
                Share(engine.socket_path("writeback"), "writeback"),
            ],
            cpus=2,
        )
        with Guest(machine, log_directory, programs=("flock",)) as guest:
            for tag in ("plain", "writeback"):
                guest.run(f"mkdir /mnt/{tag} && mount -t virtiofs {tag} /mnt/{tag}")
            yield SharedGuest(guest, plain, writeback, engine)
            guest.run("umount /mnt/plain /mnt/writeback")
            guest.power_off()
        assert "died" not in engine.log()


def test_a_tree_is_unpacked_compiled_and_run(shared: SharedGuest, tmp_path: Path) -> None:
    """With the host's compiler, which is in the folder: programs run from there, their pages are read."""
    tools = shared.plain / "tools"
    tools.mkdir()
    copy_compiler(tools)
    make_tree(shared.plain / "tree.tar", file_count=5, seed=1)
    here = tmp_path / "here"
    shutil.copytree(shared.plain / "tree", here)
    compile_here(here, tools)
    shared.guest.run("mkdir /mnt/plain/built && cd /mnt/plain/built && tar xf ../tree.tar")
    (shared.plain / "build.sh").write_text(COMPILE)
    path = "export PATH=/mnt/plain/tools:$PATH LD_LIBRARY_PATH=/mnt/plain/tools"
    shared.guest.run(f"{path} && cd /mnt/plain/built && sh ../build.sh")
    assert digests(shared.plain / "built") == digests(here)
    said = subprocess.run([here / "program"], capture_output=True, text=True, check=True).stdout
    assert shared.guest.run("/mnt/plain/built/program") + "\n" == said
    found = shared.guest.run("cd /mnt/plain/built && find . -type f | sort | xargs sha256sum")
    assert digests_said(found) == digests(here)


def test_a_storm_of_renames(shared: SharedGuest) -> None:
    shared.guest.run(RENAME_STORM)
    storm = shared.plain / "storm"
    assert sorted(map(str, files_below(storm))) == ["a1/20", "a2/20", "a3/20", "a4/20", "shared"]
    assert [(storm / f"a{n}/20").read_text() for n in range(1, 5)] == [f"file {n}\n" for n in range(1, 5)]
    assert (storm / "shared").read_text().split()[1] == "20"
    found = shared.guest.run("cd /mnt/plain/storm && find . -type f | sort && ls b1 b2 b3 b4")
    assert found.split()[:5] == ["./a1/20", "./a2/20", "./a3/20", "./a4/20", "./shared"]


@pytest.mark.parametrize("name", ["plain", "writeback"])
def test_files_are_what_was_done_to_them(shared: SharedGuest, name: str) -> None:
    """Read, written, mapped shared and private, cut off, preallocated, copied, renamed."""
    build_program("file_exerciser", shared.plain)
    for seed in range(2):
        output = shared.guest.run(f"/mnt/plain/file_exerciser /mnt/{name}/exercised {seed} 400 guest")
        counts = dict(line.split() for line in output.splitlines())
        assert all(int(count) for count in counts.values())
        found = shared.guest.run(f"sync && sha256sum </mnt/{name}/exercised").split()[0]
        assert digests(shared.plain.parent / name)["exercised"] == found


def test_who_writes_to_a_file_takes_its_set_user_id(shared: SharedGuest) -> None:
    """The host does it where it was told to (FUSE_HANDLE_KILLPRIV_V2), else the guest."""
    guest = shared.guest
    guest.run("echo 'somebody:x:1234:1234::/:/bin/sh' >/etc/passwd")
    changes = {
        "written": "echo more >>FILE",
        "cut": "truncate -s 1 FILE",
        "opened": ": >FILE",
        "kept": "cat FILE",
    }
    for name, folder in (("plain", shared.plain), ("writeback", shared.writeback)):
        for change, command in changes.items():
            path = f"/mnt/{name}/{change}"
            guest.run(f"echo before >{path} && chmod 6777 {path}")
            guest.run(f"su somebody -c '{command.replace('FILE', path)}' && sync")
            is_kept = change == "kept"
            assert int(guest.run(f"stat -c %a {path}"), 8) == (0o6777 if is_kept else 0o777), (name, change)
            assert (folder / change).stat().st_mode & 0o7777 == (0o6777 if is_kept else 0o777)
        guest.run(f"touch /mnt/{name}/given && chmod 6777 /mnt/{name}/given && chown 1234 /mnt/{name}/given")
        assert (folder / "given").stat().st_mode & 0o7777 == 0o777
        assert (folder / "given").stat().st_uid == 1234


def test_writeback_gathers_what_is_written(shared: SharedGuest) -> None:
    """Many writes are one request; the guest's size and time are the host's once they are written back."""
    control = shared.engine.control
    before = requests_of(control, "writeback", "write")
    guest = shared.guest
    # An append each, by a shell that has it open.
    guest.run("for i in $(seq 200); do echo line $i; done >/mnt/writeback/gathered")
    said = guest.run("stat -c '%s %Y' /mnt/writeback/gathered && sync").split()
    found = (shared.writeback / "gathered").stat()
    assert [int(word) for word in said] == [found.st_size, int(found.st_mtime)]
    assert (shared.writeback / "gathered").read_text() == "".join(f"line {i}\n" for i in range(1, 201))
    assert requests_of(control, "writeback", "write") - before <= 2
    guest.run("touch -d '2001-02-03 04:05:06' /mnt/writeback/gathered && sync")
    assert int((shared.writeback / "gathered").stat().st_mtime) == int(
        guest.run("stat -c %Y /mnt/writeback/gathered")
    )


def test_two_guests_see_each_others_files(shared: SharedGuest, tmp_path: Path) -> None:
    """What one makes, changes and removes the other one sees, and the host; each has locks of its own."""
    first = shared.guest
    machine = Machine(shares=[Share(shared.engine.socket_path("second"), "second")])
    with Guest(machine, tmp_path, programs=("flock",)) as second:
        second.run("mount -t virtiofs second /mnt")
        first.run("mkdir /mnt/plain/both && echo first >/mnt/plain/both/one")
        assert second.run("cat /mnt/both/one") == "first"
        second.run("echo second >>/mnt/both/one && mv /mnt/both/one /mnt/both/two")
        assert (shared.plain / "both/two").read_text() == "first\nsecond\n"
        # Within the second that the first guest goes by what it has, and a moment more.
        first.run('until [ "$(cat /mnt/plain/both/two)" = "$(printf \'first\\nsecond\')" ]; do :; done')
        first.run("until [ ! -e /mnt/plain/both/one ]; do :; done")
        take = "flock -n /mnt/{}both/two -c true"
        hold = "touch /tmp/locked && until [ -e /tmp/over ]; do :; done"
        first.run(f"(flock /mnt/plain/both/two -c '{hold}' || touch /tmp/locked) &")
        first.run("until [ -e /tmp/locked ]; do :; done")
        assert first.status_of(take.format("plain/")) == (1, "")
        second.run(take.format(""))
        first.run(f"touch /tmp/over && until {take.format('plain/')}; do :; done")
        second.run("rm -r /mnt/both")
        first.run("until [ ! -e /mnt/plain/both ]; do :; done")
        second.run("umount /mnt")
        second.power_off()


def files_below(folder: Path) -> list[Path]:
    return [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]


def requests_of(control: ControlClient, drive: str, operation: str) -> int:
    """How many requests of a kind a drive has had."""
    operations = control.get(f"/drives/{drive}/stats")["operations"]
    (count,) = (found["request_count"] for found in operations if found["operation"] == operation)
    return int(count)
