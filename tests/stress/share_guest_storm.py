"""A real guest compares each byte of what it does to a shared folder whose processes are killed."""

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from scripts.guest_machine import Machine, Share
from tests.rigs.guest import Guest
from tests.rigs.guest_tools import build_program, digests, digests_said
from tests.rigs.many_drives import ManyDrives

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

    def __init__(self, engine: ManyDrives, seed: int) -> None:
        self.kill_counts = dict.fromkeys(ROUND, 0)
        self._engine = engine
        self._seed = seed

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
        chosen = random.Random(self._seed)
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


def storm_over_guest(folder: Path, log_directory: Path, seed: int, storm_s: float) -> None:
    """Kill so long at least, and until each kind of process has been killed; then compare with the host."""
    build_program("file_exerciser", folder)
    drive: dict[str, object] = {
        "kind": "fs",
        "shared_dir": str(folder),
        "tag": NAME,
        "workers": 2,
        "num_queues": 2,
    }
    with ManyDrives({NAME: drive}) as engine:
        killer = Killer(engine, seed)
        machine = Machine(shares=[Share(engine.socket_path(NAME), NAME, num_queues=2)], cpus=2)
        with Guest(machine, log_directory) as guest:
            guest.run(f"mount -t virtiofs {NAME} /mnt && cp /mnt/file_exerciser /tmp")
            guest.run(f"({HELD_LOOP}) >/tmp/loop.log 2>&1 || touch /tmp/failed &")
            over_s = time.monotonic() + storm_s
            with killer.storm():
                while not all(killer.kill_counts.values()) or time.monotonic() < over_s:
                    guest.run(f"/tmp/file_exerciser /mnt/exercised {seed} 300 guest")
                    seed += 1
            guest.run("touch /tmp/over && until [ -e /tmp/rounds ] || [ -e /tmp/failed ]; do :; done")
            assert guest.status_of("[ ! -e /tmp/failed ] || { cat /tmp/loop.log; exit 1; }") == (0, "")
            rounds = int(guest.run("cat /tmp/rounds"))
            found = digests_said(guest.run("sync && cd /mnt && find . -type f | xargs sha256sum"))
            guest.run("umount /mnt")
            guest.power_off()
    assert digests(folder) == found
    assert (folder / "held").read_text() == "".join(f"held {i}\n" for i in range(1, rounds + 1))
