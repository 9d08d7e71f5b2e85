"""What an engine does, in one line, for its service manager: `systemctl status` shows it."""

import asyncio
from collections.abc import Iterable

from ringblk.engine.base.service_manager import ServiceManager
from ringblk.engine.program.served_drive import ServedDrive


class StatusReport:
    """Tells a service manager how many drives and front ends there are, from `begin` to `end`."""

    def __init__(self, manager: ServiceManager) -> None:
        self._manager = manager
        self._drives: Iterable[ServedDrive] | None = None
        self._is_due = False

    def begin(self, drives: Iterable[ServedDrive]) -> None:
        """All drives are listening."""
        self._drives = drives
        self._manager.tell_ready(status_line(drives))

    def note_change(self) -> None:
        """A drive or a front end has come or gone; told of soon, once for all that change together."""
        if self._manager.is_there and self._drives is not None and not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._is_due = False
        if self._drives is not None:
            self._manager.tell_status(status_line(self._drives))

    def end(self) -> None:
        """The engine is about to end."""
        if self._drives is not None:
            self._manager.tell_stopping(f"ending: {status_line(self._drives)}")
        self._drives = None


def status_line(drives: Iterable[ServedDrive]) -> str:
    """How many drives and front ends there are: `2 drives, 1 front end`."""
    served = list(drives)
    front_ends = sum(each.drive is not None and each.drive.is_connected for each in served)
    words = [_count(len(served), "drive"), _count(front_ends, "front end")]
    if failed := sum(each.state == "failed" for each in served):
        words.append(f"{failed} failed")
    return ", ".join(words)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
