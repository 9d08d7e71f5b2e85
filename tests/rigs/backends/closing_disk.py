"""A disk that notes when it is made and closed, and by whom, in a file."""

import json
import os
from pathlib import Path

from ram_disk import RamDisk  # type: ignore[import-not-found]  # on the path that tests give engines


class ClosingDisk(RamDisk):  # type: ignore[misc]
    """A line of JSON for each event; close() raises `fails` afterwards; without `starts` no worker starts."""

    def __init__(self, size_bytes: int, events: Path, fails: str = "", starts: bool = True) -> None:
        super().__init__(size_bytes)
        self.starts = starts
        self.events = events
        self.fails = fails
        self.note("made")

    def note(self, name: str) -> None:
        """Who, when, and which children of this process are there."""
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        with self.events.open("a") as file:
            file.write(json.dumps({"event": name, "pid": os.getpid(), "children": children}) + "\n")

    def start_worker(self) -> None:
        """Fails where that is asked for."""
        if not self.starts:
            raise RuntimeError("no start")

    def close(self) -> None:
        """The end."""
        self.note("closed")
        if self.fails:
            raise RuntimeError(self.fails)
