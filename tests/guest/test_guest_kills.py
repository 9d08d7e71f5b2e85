"""A real guest checks every block it writes while the host kills the engine's processes under it.

Fault model: SIGKILL of any worker, of the dispatcher, or of the supervisor (and so of the whole engine), at
any time, any number of times; a new engine is started on the same listening socket, as a service manager
would. QEMU connects again and hands the in-flight region over. The guest may notice a pause and nothing else.
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.guest_machine import Drive, Machine
from tests.rigs.guest import Guest
from tests.rigs.guest_backend import END_GUARD_S, backend_command
from tests.rigs.guest_image import make_image, run_on_host
from tests.rigs.image_file import MIB
from tests.rigs.process_tree import drive_processes_of, process_name

pytestmark = pytest.mark.guest

SEED = int(os.environ.get("RINGBLK_STORM_SEED", "1"))
FIO = (
    "fio --name=verify --filename=/mnt/data --size=12M --bs=4k --rw=randwrite --direct=1 --ioengine=libaio"
    " --iodepth=16 --verify=crc32c --verify_fatal=1 --do_verify=1 --minimal"
)


ROUND = ("worker", "worker", "dispatcher", "dispatcher", "engine")


class RestartedEngine:
    """An engine on a listening socket, started anew whenever it was killed."""

    def __init__(self, listener: socket.socket, image: Path, log_path: Path) -> None:
        self._listener = listener
        self._image = image
        self._log = log_path.open("ab")
        self.kill_counts = {"worker": 0, "dispatcher": 0, "engine": 0}
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [
            *backend_command(self._listener.fileno(), self._image, False, 1),
            "--workers=2",
            "--io-engine=psync",
        ]
        # Without a parent death signal: that would come when the thread ends which started the engine.
        return subprocess.Popen(
            command,
            pass_fds=[self._listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    def kill(self, role: str) -> None:
        """Kill a process of this role, if there is one now; after the whole engine, start the next."""
        if role == "engine":
            self._process.kill()
            self._process.wait()
            self._process = self._start()
            self.kill_counts[role] += 1
            return
        for child in drive_processes_of(self._process.pid):
            with contextlib.suppress(OSError):
                if process_name(child).startswith(f"rb-{role}"):
                    os.kill(child, signal.SIGKILL)
                    self.kill_counts[role] += 1
                    return

    def end(self) -> None:
        """End the engine; it must do so with status 0."""
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(END_GUARD_S) == 0

    def close(self) -> None:
        """Leave nothing behind, however the test went."""
        self._process.kill()
        self._process.wait()
        self._log.close()


@contextlib.contextmanager
def storm(engine: RestartedEngine) -> Iterator[None]:
    """Kill something every 100 to 500 ms while the context lasts; the whole engine a fifth of the times."""
    chosen = random.Random(SEED)
    is_over = threading.Event()

    def kill_on() -> None:
        while True:
            # A shuffled round, so that every role has its turn however few kills there are time for.
            for role in chosen.sample(ROUND, len(ROUND)):
                if is_over.wait(chosen.uniform(0.1, 0.5)):
                    return
                engine.kill(role)

    killer = threading.Thread(target=kill_on)
    killer.start()
    try:
        yield
    finally:
        is_over.set()
        killer.join()


def test_every_block_is_right_while_processes_are_killed(tmp_path: Path) -> None:
    image = make_image(tmp_path / "disk.img", 48 * MIB)
    socket_path = tmp_path / "blk.sock"
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as cleanup:
        listener.bind(os.fspath(socket_path))
        listener.listen()
        engine = RestartedEngine(listener, image, tmp_path / "backend.log")
        cleanup.callback(engine.close)
        machine = Machine([Drive(socket_path, reconnect=True)], memory_mib=768)
        with Guest(machine, tmp_path, programs=("fio",)) as guest:
            guest.run("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt")
            with storm(engine):
                # As often as it takes for every role to have been killed under the load at least once.
                while True:
                    guest.run(FIO)
                    guest.run("cp /mnt/data /mnt/copy && sync")
                    guest.run("cmp /mnt/data /mnt/copy")
                    if all(engine.kill_counts.values()):
                        break
            assert "I/O error" not in guest.run("dmesg")
            guest.run("umount /mnt")
            guest.power_off()
        engine.end()
    run_on_host("e2fsck", "-fn", image)
