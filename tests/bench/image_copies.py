"""scripts/bench_image: import a raw image against dd and qemu-img convert, interleaved.

Prints JSON, then a table. --directory names one on the disk in question.
"""

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.rigs.page_cache import cached_bytes

COMMANDS = {
    "ringblk image import": [
        sys.executable,
        "-m",
        "ringblk",
        "image",
        "import",
        "--quiet",
        "--format=raw",
        "IN",
        "OUT",
    ],
    "dd oflag=direct": ["dd", "if=IN", "of=OUT", "oflag=direct", "bs=1M", "status=none"],
    "dd iflag=direct oflag=direct": [
        "dd",
        "if=IN",
        "of=OUT",
        "iflag=direct",
        "oflag=direct",
        "bs=1M",
        "status=none",
    ],
    "qemu-img convert": [
        "qemu-img",
        "convert",
        "-t",
        "none",
        "-T",
        "none",
        "-f",
        "raw",
        "-O",
        "raw",
        "IN",
        "OUT",
    ],
    "cp": ["cp", "--sparse=never", "--reflink=never", "IN", "OUT"],
}


def drop_cache(path: Path) -> None:
    """Write the file's dirty pages and give back its cached ones, so that every run begins alike."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def run_once(name: str, source: Path, target: Path) -> dict[str, float]:
    """Time one command, with the source out of the page cache at its beginning."""
    target.unlink(missing_ok=True)
    drop_cache(source)
    command = [word.replace("IN", str(source)).replace("OUT", str(target)) for word in COMMANDS[name]]
    start = time.monotonic()
    subprocess.run(command, check=True)
    seconds = time.monotonic() - start
    result = {"seconds": seconds, "cached_bytes": cached_bytes(source) + cached_bytes(target)}
    target.unlink()
    return result


def make_source(path: Path, size_mib: int) -> None:
    """Write a source that is all data."""
    with path.open("wb") as file:
        for _ in range(size_mib):
            file.write(os.urandom(1 << 20))
    drop_cache(path)


def main() -> None:
    """Run all of them, in turns."""
    parser = argparse.ArgumentParser(prog="bench_image", description=__doc__)
    parser.add_argument("--size-mib", type=int, default=2048)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"))
    arguments = parser.parse_args()
    source = arguments.directory / f"bench-image-{os.getpid()}.in"
    target = arguments.directory / f"bench-image-{os.getpid()}.out"
    installed = [name for name, command in COMMANDS.items() if shutil.which(command[0])]
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in installed}
    try:
        make_source(source, arguments.size_mib)
        for _ in range(arguments.runs):
            for name in installed:
                runs[name].append(run_once(name, source, target))
    finally:
        source.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
    report: dict[str, Any] = {"size_mib": arguments.size_mib, "commands": {}}
    ours = statistics.median(run["seconds"] for run in runs["ringblk image import"])
    for name, results in runs.items():
        seconds = [run["seconds"] for run in results]
        report["commands"][name] = {
            "command": shlex.join(COMMANDS[name][-6:] if name.startswith("ringblk") else COMMANDS[name]),
            "median_seconds": round(statistics.median(seconds), 3),
            "least_seconds": round(min(seconds), 3),
            "most_seconds": round(max(seconds), 3),
            "mib_per_second": round(arguments.size_mib / statistics.median(seconds)),
            "times_as_long_as_ours": round(statistics.median(seconds) / ours, 2),
            "cached_mib": round(max(run["cached_bytes"] for run in results) / (1 << 20), 1),
        }
    print(json.dumps(report, indent=2))
    print(f"\n{'':30} {'median s':>9} {'least':>7} {'most':>7} {'MiB/s':>7} {'ratio':>6} {'cached MiB':>11}")
    for name, row in report["commands"].items():
        print(
            f"{name:30} {row['median_seconds']:9.2f} {row['least_seconds']:7.2f} {row['most_seconds']:7.2f}"
            f" {row['mib_per_second']:7d} {row['times_as_long_as_ours']:6.2f} {row['cached_mib']:11.1f}"
        )


if __name__ == "__main__":
    main()
