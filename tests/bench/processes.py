"""What running processes use, read from /proc."""

import os
from collections.abc import Iterable
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """A process and all that come from it, itself first."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:
            continue
        for child in children:
            found += descendants(int(child))
    return found


def context_switches(pids: Iterable[int]) -> dict[str, int]:
    """How often the threads of these processes were switched away from, by name and id of the process."""
    counts: dict[str, int] = {}
    for pid in pids:
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            fields = _fields(status)
            name = f"{fields['Name']} {pid}"
            switches = int(fields["voluntary_ctxt_switches"]) + int(fields["nonvoluntary_ctxt_switches"])
            counts[name] = counts.get(name, 0) + switches
    return counts


def memory_kib(pids: Iterable[int]) -> dict[str, dict[str, int]]:
    """Proportional set size and its parts, in KiB, by name and id of the process."""
    found = {}
    for pid in pids:
        fields = _fields(Path(f"/proc/{pid}/smaps_rollup"))
        parts = {key: int(fields[key].split()[0]) for key in ("Pss", "Pss_Anon", "Pss_File", "Pss_Shmem")}
        found[f"{process_name(pid)} {pid}"] = parts
    return found


def shared_kib(pids: Iterable[int]) -> float:
    """What the shared memory that they hold open takes in its file system, each piece counted once."""
    found = {}
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target, info = os.readlink(entry), entry.stat()
            except OSError:
                continue
            if target.startswith(("/dev/shm/ringblk-engine-", "/dev/shm/ringblk-drive-", "/memfd:")):
                found[info.st_dev, info.st_ino] = info.st_blocks / 2
    return sum(found.values())


def process_name(pid: int) -> str:
    """The name that top shows."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


def _fields(path: Path) -> dict[str, str]:
    lines = (line.partition(":") for line in path.read_text().splitlines())
    return {key: value.strip() for key, _, value in lines}
