"""Blocks of 4 KiB that a guest reads through the DAX window, by FUSE requests, and from its own page cache.

One guest under emulation has the same folder twice, with a window and without. The three ways take turns.
"""

import argparse
import json
import statistics
import struct
import sys
import tempfile
from pathlib import Path

from scripts.guest_machine import WINDOW_QEMU, Machine, Share
from tests.rigs.guest import Guest
from tests.rigs.guest_tools import build_program
from tests.rigs.many_drives import ManyDrives

FILE_BYTES = 32 << 20
BLOCK_BYTES = 4096
WAYS = {
    "window": "/mnt/window/file {}",
    "requests": "/mnt/plain/file {} direct",
    "page cache": "/mnt/plain/file {}",
}
"""What `block_reader` is told."""


def measure(folder: Path, log_directory: Path, rounds: int, milliseconds: int) -> dict[str, list[float]]:
    """Reads a second by way, a figure for each round."""
    blocks = (
        struct.pack("<Q", number).ljust(BLOCK_BYTES, b"\0") for number in range(FILE_BYTES // BLOCK_BYTES)
    )
    (folder / "file").write_bytes(b"".join(blocks))
    build_program("block_reader", folder)
    drives: dict[str, dict[str, object]] = {
        "window": {"dax": "always", "dax_window": 2 * FILE_BYTES},
        "plain": {},
    }
    for name, settings in drives.items():
        settings.update(kind="fs", shared_dir=str(folder), tag=name)
    figures: dict[str, list[float]] = {way: [] for way in WAYS}
    with ManyDrives(drives) as engine:
        shares = [
            Share(engine.socket_path("window"), "window", has_window=True),
            Share(engine.socket_path("plain"), "plain"),
        ]
        with Guest(Machine(shares=shares), log_directory) as guest:
            guest.run("mkdir /mnt/window /mnt/plain && mount -t virtiofs -o dax=always window /mnt/window")
            guest.run("mount -t virtiofs plain /mnt/plain && cp /mnt/plain/block_reader /tmp")
            # All is mapped, and cached, before it counts.
            guest.run("cat /mnt/window/file /mnt/plain/file >/dev/null")
            for _ in range(rounds):
                for way, arguments in WAYS.items():
                    said = guest.run(f"/tmp/block_reader {arguments.format(milliseconds)}")
                    figures[way].append(float(said))
            guest.power_off()
    return figures


def main() -> None:
    """Print a table and JSON."""
    parser = argparse.ArgumentParser(prog="bench_window", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each way in each round")
    arguments = parser.parse_args()
    if not WINDOW_QEMU.exists():
        sys.exit("bench_window: no QEMU with a DAX window; scripts/setup-guest-window says why")
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm", prefix="ringblk-bench-") as folder,
        tempfile.TemporaryDirectory(prefix="ringblk-bench-") as logs,
    ):
        figures = measure(Path(folder), Path(logs), arguments.rounds, int(arguments.seconds * 1000))
    ratios = [
        window / request for window, request in zip(figures["window"], figures["requests"], strict=True)
    ]
    print(
        f"window against requests: {statistics.median(ratios):.1f}x ({min(ratios):.1f} to {max(ratios):.1f})"
    )
    print(f"\n{'4 KiB reads':12} {'a second':>10} {'least':>10} {'most':>10}")
    for way, found in figures.items():
        print(f"{way:12} {statistics.median(found):10.0f} {min(found):10.0f} {max(found):10.0f}")
    print(json.dumps({"reads_per_s": figures, "window_to_requests": ratios}))


if __name__ == "__main__":
    main()
