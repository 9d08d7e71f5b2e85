"""How long a driver waits when a process of the engine is killed with requests in flight.

A round puts 16 writes of 4 KiB in flight, kills, and takes the time from the kill to the last of their
completions. After the whole engine was killed the driver starts the next one and hands the in-flight region
over, so that round includes the start of an engine.

A round of an upgrade starts a new engine with `--takeover` under a load of as many writes, and takes the
longest time between two completions; the driver connects again as soon as the old engine has gone.

A round of `control-plane` kills that of an engine with a list under such a load, and takes the longest time
between two completions; it takes turns with one that kills nobody, and with one in which that of another
engine is killed (`control_plane`).
"""

import argparse
import itertools
import os
import signal
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import msgspec

from ringblk.engine.frontend.backend import engine_command
from ringblk.engine.frontend.frontend import Frontend
from ringblk.engine.frontend.request import BackendGone
from tests.bench.processes import descendants, process_name

DEPTH = 16
BLOCK_BYTES = 4096
IMAGE_BYTES = 64 << 20
GUARD_S = 60.0
ROLES = ("nothing", "worker", "dispatcher", "engine")


class Pause(msgspec.Struct):
    """What was killed, and how long the requests in flight took from there."""

    killed: str
    rounds: int
    median_ms: float
    worst_ms: float
    least_ms: float | None = None
    quartiles_ms: tuple[float, float] | None = None


def child_of(supervisor_pid: int, role: str) -> int | None:
    """A child of the engine with that role; None while it is being replaced."""
    for pid in descendants(supervisor_pid):
        if process_name(pid).startswith(f"rb-{role}"):
            return pid
    return None


def wait_for_child(supervisor_pid: int, role: str) -> int:
    """The same, waiting for the one that replaces it."""
    while (pid := child_of(supervisor_pid, role)) is None:
        time.sleep(0.001)
    return pid


def one_round(disk: Frontend, role: str, start: int) -> float:
    """Seconds from the kill to the last completion of what was in flight."""
    buffers = [disk.allocate(BLOCK_BYTES) for _ in range(DEPTH)]
    supervisor_pid = disk.backend_pid
    assert supervisor_pid is not None
    victim = supervisor_pid if role == "engine" else 0
    if role in ("worker", "dispatcher"):
        victim = wait_for_child(supervisor_pid, role)
    for index, buffer in enumerate(buffers):
        disk.submit_write((start + index) * BLOCK_BYTES % IMAGE_BYTES, buffer)
    disk.submit()
    killed_s = time.monotonic()
    if victim:
        os.kill(victim, signal.SIGKILL)
    if role == "engine":
        disk.reconnect()
    done = 0
    while done < DEPTH:
        completions = disk.poll(min_count=1, timeout_s=GUARD_S)
        assert completions, "requests are lost"
        assert all(completion.status == 0 for completion in completions)
        done += len(completions)
    took_s = time.monotonic() - killed_s
    for buffer in buffers:
        buffer.release()
    return took_s


def measure(folder: Path, role: str, rounds: int, options: list[str]) -> Pause:
    """Kill `role` in each of `rounds` rounds."""
    image = folder / "pause.img"
    image.write_bytes(bytes(IMAGE_BYTES))
    command = engine_command(f"--blk-file={image}", "--workers=4", *options)
    with Frontend(command, queue_size=64) as disk:
        one_round(disk, "nothing", 0)  # workers come with the first requests
        took_s = [one_round(disk, role, DEPTH * index) for index in range(rounds)]
    took_ms = [1000 * each for each in took_s]
    return Pause(role, rounds, round(statistics.median(took_ms), 1), round(max(took_ms), 1))


class Upgrades:
    """An engine on a socket, and the engines that take over from it, one after the other."""

    def __init__(self, folder: Path, options: list[str]) -> None:
        image = folder / "upgrade.img"
        image.write_bytes(bytes(IMAGE_BYTES))
        self.socket_path = folder / "upgrade.sock"
        program = engine_command()[0]
        self._command = [program, f"--socket-path={self.socket_path}", f"--blk-file={image}", *options]
        self.engine = subprocess.Popen(self._command)
        while not self.socket_path.exists():
            time.sleep(0.001)

    def longest_gap(self, disk: Frontend) -> float:
        """Seconds between two completions, at most, while the next engine takes over."""
        buffers = [disk.allocate(BLOCK_BYTES) for _ in range(DEPTH)]
        busy = {disk.submit_write(0, buffer): buffer for buffer in buffers}
        disk.submit()
        old, self.engine = self.engine, subprocess.Popen([*self._command, "--takeover"])
        gaps_s, last_s, rounds_after = [0.0], time.monotonic(), 0
        while rounds_after < DEPTH:
            try:
                completions = disk.poll(min_count=1, timeout_s=GUARD_S)
            except BackendGone:
                self._reconnect(disk)
                continue
            assert completions, "requests are lost"
            assert all(completion.status == 0 for completion in completions)
            gaps_s.append(time.monotonic() - last_s)
            last_s = time.monotonic()
            rounds_after += old.poll() is not None
            for completion in completions:
                buffer = busy.pop(completion.token)
                busy[disk.submit_write(0, buffer)] = buffer
            disk.submit()
        for token, buffer in busy.items():
            disk.wait(token, GUARD_S)
            buffer.release()
        return max(gaps_s)

    def _reconnect(self, disk: Frontend) -> None:
        """Connect to the new engine as soon as it listens."""
        while True:
            try:
                disk.reconnect()
                return
            except BackendGone:
                time.sleep(0.001)

    def close(self) -> None:
        """End the last of them."""
        self.engine.terminate()
        self.engine.wait(GUARD_S)


def measure_upgrades(folder: Path, rounds: int, options: list[str]) -> Pause:
    """Upgrade as many times."""
    upgrades = Upgrades(folder, options)
    try:
        with Frontend(upgrades.socket_path, queue_size=64) as disk:
            took_ms = [1000 * upgrades.longest_gap(disk) for _ in range(rounds)]
    finally:
        upgrades.close()
    return Pause("upgrade", rounds, round(statistics.median(took_ms), 1), round(max(took_ms), 1))


def measure_control_plane(folder: Path, rounds: int, options: list[str]) -> list[Pause]:
    """Kill it as many times, and as many times do not (`control_plane.KINDS`); and the differences."""
    from tests.bench.control_plane import ANOTHER, KILLED, KINDS, LEFT_ALONE, KilledControlPlane

    (io_engine,) = [each.removeprefix("--io-engine=") for each in options if each.startswith("--io-engine=")]
    engine = KilledControlPlane(folder, io_engine)
    gaps_s: dict[str, list[float]] = {kind: [] for kind in KINDS}
    try:
        for index in range(rounds):
            for kind in itertools.islice(itertools.cycle(KINDS), index, index + len(KINDS)):
                gaps_s[kind].append(engine.longest_gap_s(kind))
    finally:
        engine.close()
    for first, second in ((KILLED, ANOTHER), (ANOTHER, LEFT_ALONE)):
        pairs = zip(gaps_s[first], gaps_s[second], strict=True)
        gaps_s[f"{first} - {second}"] = [one - other for one, other in pairs]
    return [_spread(kind, found) for kind, found in gaps_s.items()]


def _spread(kind: str, gaps_s: list[float]) -> Pause:
    gaps_ms = [round(1000 * gap_s, 2) for gap_s in gaps_s]
    low, middle, high = (
        statistics.quantiles(gaps_ms, n=4, method="inclusive") if len(gaps_ms) > 1 else gaps_ms * 3
    )
    return Pause(kind, len(gaps_ms), middle, max(gaps_ms), min(gaps_ms), (low, high))


def _line(pause: Pause) -> str:
    line = f"{pause.killed:34} {pause.rounds:6} {pause.median_ms:10.2f} {pause.worst_ms:10.2f}"
    if pause.quartiles_ms is not None:
        low, high = pause.quartiles_ms
        line += f"  (least {pause.least_ms:.2f}, quartiles {low:.2f} and {high:.2f})"
    return line


def main() -> None:
    """Measure every role and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the image lies"
    )
    parser.add_argument("--engine-args", default="--io-engine=psync", help="more options of the engine")
    parser.add_argument(
        "--what", default=",".join((*ROLES, "upgrade", "control-plane")), help="kinds of round"
    )
    arguments = parser.parse_args()
    found = []
    print(f"{'killed':34} {'rounds':>6} {'median ms':>10} {'worst ms':>10}")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        options = arguments.engine_args.split()
        for role in arguments.what.split(","):
            if role == "control-plane":
                pauses = measure_control_plane(Path(folder), arguments.rounds, options)
            elif role == "upgrade":
                pauses = [measure_upgrades(Path(folder), arguments.rounds, options)]
            else:
                pauses = [measure(Path(folder), role, arguments.rounds, options)]
            for pause in pauses:
                print(_line(pause), flush=True)
            found += pauses
    print(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    main()
