"""A real guest compares each byte of what it does to a shared folder whose processes are killed.

Fault model: SIGKILL of a worker, of the dispatcher, of the control plane, at any moment, any number of times.
QEMU's `vhost-user-fs-pci` never connects again. The guest may notice a pause and nothing else.
"""

import contextlib
import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.guest_machine import Machine, Share
from tests.rigs.guest import Guest
from tests.rigs.guest_tools import build_program, digests, digests_said
from tests.rigs.many_drives import ManyDrives

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="files are opened by their handles: root only"),
]

SEED = int(os.environ.get("RINGBLK_STORM_SEED", "1"))
STORM_S = float(os.environ.get("RINGBLK_STORM_S", "0"))
"""How long at least; without, until each kind of process has been killed."""
NAME = "share"
ROUND = ("worker", "worker", "dispatcher", "dispatcher", "control plane")
HELD_LOOP = """
exec 3>/mnt/held
i=0
until [ -e /tmp/over ]; do
  i=$((i + 1))
  echo line $i >/mnt/loop.new && mv /mnt/loop.new /mnt/loop && [ "$(cat /mnt/loop)" = "line $i" ] || exit 1
  echo held $i >&3 || exit 1
done
echo $i >/tmp/rounds
"""
"""A file is replaced again and again while another one is held open."""


class Killer:
    """Kills a process of the share every 100 to 500 ms, on a thread of its own."""

    def __init__(self, engine: ManyDrives) -> None:
        self.kill_counts = dict.fromkeys(ROUND, 0)
        self._engine = engine

    def kill(self, role: str) -> None:
        """Kill a process of this role, if there is one now."""
        if role == "control plane":
            self._engine.kill_control_plane()
        else:
            snapshot = self._engine.snapshots()[NAME]
            workers = [worker.pid for worker in snapshot.workers if worker.pid]
            pid = snapshot.dispatcher_pid if role == "dispatcher" else max(workers, default=0)
            if not pid:
                return
            with contextlib.suppress(ProcessLookupError):  # it has ended since it was looked for
                os.kill(pid, signal.SIGKILL)
        self.kill_counts[role] += 1

    @contextlib.contextmanager
    def storm(self) -> Iterator[None]:
        """Kill while the context lasts."""
        chosen = random.Random(SEED)
        is_over = threading.Event()
        failures: list[BaseException] = []

        def kill_on() -> None:
            try:
                while True:
                    for role in chosen.sample(ROUND, len(ROUND)):
                        if is_over.wait(chosen.uniform(0.1, 0.5)):
                            return
                        self.kill(role)
            except BaseException as failure:
                failures.append(failure)

        thread = threading.Thread(target=kill_on)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
        assert not failures, failures


def test_a_guest_goes_on_while_processes_are_killed(shm_path: Path, tmp_path: Path) -> None:
    build_program("file_exerciser", shm_path)
    drive: dict[str, object] = {
        "kind": "fs",
        "shared_dir": str(shm_path),
        "tag": NAME,
        "workers": 2,
        "num_queues": 2,
    }
    with ManyDrives({NAME: drive}) as engine:
        killer = Killer(engine)
        machine = Machine(shares=[Share(engine.socket_path(NAME), NAME, num_queues=2)], cpus=2)
        with Guest(machine, tmp_path) as guest:
            guest.run(f"mount -t virtiofs {NAME} /mnt && cp /mnt/file_exerciser /tmp")
            guest.run(f"({HELD_LOOP}) >/tmp/loop.log 2>&1 || touch /tmp/failed &")
            is_long_enough = threading.Event()
            timer = threading.Timer(STORM_S, is_long_enough.set)
            timer.start()
            with killer.storm():
                seed = SEED
                while not (all(killer.kill_counts.values()) and is_long_enough.is_set()):
                    guest.run(f"/tmp/file_exerciser /mnt/exercised {seed} 300 guest")
                    seed += 1
            guest.run("touch /tmp/over && until [ -e /tmp/rounds ] || [ -e /tmp/failed ]; do :; done")
            assert guest.status_of("[ ! -e /tmp/failed ] || { cat /tmp/loop.log; exit 1; }") == (0, "")
            rounds = int(guest.run("cat /tmp/rounds"))
            found = digests_said(guest.run("sync && cd /mnt && find . -type f | xargs sha256sum"))
            guest.run("umount /mnt")
            guest.power_off()
    assert digests(shm_path) == found
    assert (shm_path / "held").read_text() == "".join(f"held {i}\n" for i in range(1, rounds + 1))
