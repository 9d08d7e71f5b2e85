"""How long a driver waits when a process of the engine is killed with requests in flight.

A round puts 16 writes of 4 KiB in flight, kills, and takes the time from the kill to the last of their
completions. After the whole engine was killed the driver starts the next one and hands the in-flight region
over, so that round includes the start of an engine.
"""

import argparse
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path

import msgspec

from ringblk.engine.frontend import Frontend
from ringblk.engine.frontend_backend import engine_command

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


def child_of(supervisor_pid: int, role: str) -> int | None:
    """A child of the engine with that role; None while it is being replaced."""
    children = Path(f"/proc/{supervisor_pid}/task/{supervisor_pid}/children").read_text()
    for pid in map(int, children.split()):
        if Path(f"/proc/{pid}/comm").read_text().startswith(f"rb-{role}"):
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
        took_s = [one_round(disk, role, DEPTH * index) for index in range(rounds)]
    took_ms = [1000 * each for each in took_s]
    return Pause(role, rounds, round(statistics.median(took_ms), 1), round(max(took_ms), 1))


def main() -> None:
    """Measure every role and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the image lies"
    )
    parser.add_argument("--engine-args", default="--io-engine=psync", help="more options of the engine")
    arguments = parser.parse_args()
    found = []
    print(f"{'killed':12} {'rounds':>6} {'median ms':>10} {'worst ms':>10}")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for role in ROLES:
            pause = measure(Path(folder), role, arguments.rounds, arguments.engine_args.split())
            print(
                f"{pause.killed:12} {pause.rounds:6} {pause.median_ms:10.1f} {pause.worst_ms:10.1f}",
                flush=True,
            )
            found.append(pause)
    print(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    main()
