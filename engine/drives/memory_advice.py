"""Why a ring cannot be reached in the memory that a front end shares, in words that say what to do."""

import contextlib
import logging
import os
from collections.abc import Sequence

from ringblk.engine.devices.device import DeviceError
from ringblk.engine.devices.vring import Vring
from ringblk.shm.memory.region import MemoryRegion
from ringblk.shm.platform.process_table import private_mappings

_SHARED = "-object memory-backend-memfd,id=mem,size=SIZE,share=on -machine memory-backend=mem"

_log = logging.getLogger(__name__)


class MemoryAdvice:
    """Refuses rings outside of the regions. The same reason counts as told until a ring starts."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._has_told_of_copy = False
        self.front_end_pid: int | None = None
        """The process that is served, if it can be told and has not been looked at."""

    def check(self, vring: Vring, regions: Sequence[MemoryRegion]) -> None:
        """Raise `DeviceError` unless each part of the ring lies within one region."""
        if not regions:
            raise self._refusal(
                "the front end shares no guest memory with this engine; to QEMU's command line add "
                f"{_SHARED} (SIZE is that of -m)"
            )
        for name, uva, size_bytes in vring.parts():
            end = uva + size_bytes
            if not any(each.uva <= uva and end <= each.uva + each.size_bytes for each in regions):
                raise self._refusal(
                    f"queue {vring.queue_index}: its {name} is not within one memory region; on QEMU's "
                    "command line each memory backend needs share=on"
                )

    def look_for_copies(self, regions: Sequence[tuple[MemoryRegion, int]]) -> None:
        """Say once in the log if the front end has a copy of its own of the memory that it handed over.

        QEMU sends the file of a memory backend without share=on like any other, and maps it for itself alone:
        what the guest writes never comes here, and its requests hang. Only a front end of the same user can
        be looked at, which is done when its first queue starts.
        """
        if not regions:
            return
        pid, self.front_end_pid = self.front_end_pid, None
        if pid is None or self._has_told_of_copy:
            return
        with contextlib.suppress(OSError):
            private = private_mappings(pid)
            if any(is_mapped_at(private, region.uva, fd) for region, fd in regions):
                self._has_told_of_copy = True
                _log.warning(
                    "the front end (process %d) does not share the memory that it has handed over: its "
                    "guest's requests are not seen; on QEMU's command line each memory backend needs "
                    "share=on",
                    pid,
                )

    def forget(self) -> None:
        """A ring has started: what is refused from now on is news."""
        self._told.clear()

    def _refusal(self, reason: str) -> DeviceError:
        error = DeviceError(reason)
        error.is_told = reason in self._told
        self._told.add(reason)
        return error


def is_mapped_at(mappings: list[tuple[range, int]], address: int, fd: int) -> bool:
    """Whether one of the mappings has this file at this address."""
    inode = os.fstat(fd).st_ino
    return any(address in place and mapped_inode == inode for place, mapped_inode in mappings)
