"""An engine's processes, found in /proc."""

import contextlib
from pathlib import Path

ZYGOTE = "rb-zygote"


def process_name(pid: int) -> str:
    """What listings show; empty where there is no such process any more."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def children_of(pid: int) -> list[int]:
    """What a process has forked and not reaped."""
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def zygotes_of(pid: int) -> list[int]:
    """An engine's zygotes: one, or none, or one that has just died and the next."""
    return [child for child in children_of(pid) if process_name(child) == ZYGOTE]


def drive_processes_of(pid: int) -> list[int]:
    """Dispatchers and workers of an engine, whoever has forked them.

    What the supervisor has forked has its name at first, and may be a zygote: it is left out.
    """
    found = []
    for child in children_of(pid):
        name = process_name(child)
        if name == ZYGOTE:
            found += children_of(child)
        elif name != process_name(pid):
            found.append(child)
    return found
