"""Planned deaths: the file that shm/sync/crash_point.pxd reads, written by the test that wants them."""

import mmap
import struct
from pathlib import Path

MAX_DEATHS = 8
_HEADER_BYTES = 64
_DEATH = struct.Struct("<i60s")
_PLAN_BYTES = _HEADER_BYTES + MAX_DEATHS * _DEATH.size


class CrashPlan:
    """One plan for all processes of an engine; `path` is for RINGBLK_CRASH_FILE."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(_PLAN_BYTES))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _PLAN_BYTES)

    def arm(self, *deaths: tuple[str, int]) -> None:
        """Plan (point, n): die at the n-th passage of the point; each after the one before it."""
        self.disarm()
        for place, (name, passage) in enumerate(deaths):
            _DEATH.pack_into(self._memory, _HEADER_BYTES + place * _DEATH.size, passage, name.encode())
        struct.pack_into("<I", self._memory, 0, 0)

    def disarm(self) -> None:
        """Plan nothing."""
        struct.pack_into("<I", self._memory, 0, MAX_DEATHS)
        self._memory[_HEADER_BYTES:] = bytes(_PLAN_BYTES - _HEADER_BYTES)

    @property
    def deaths(self) -> int:
        """How many of the planned deaths have happened."""
        deaths: int = struct.unpack_from("<I", self._memory, 0)[0]
        return 0 if deaths == MAX_DEATHS else deaths
