"""The progress bar of an image copy: rate, time left, bytes on disk."""

import sys
from types import TracebackType
from typing import Any, Self


class CopyProgress:
    """A bar on standard error where that is a terminal and `rich` is installed; else nothing at all."""

    def __init__(self, title: str, *, quiet: bool) -> None:
        self._bar: Any = None
        self._task: Any = None
        if quiet or not sys.stderr.isatty():
            return
        try:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )
        except ImportError:
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            TextColumn("on disk {task.fields[on_disk]}"),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(title, total=None, on_disk="0 B")

    def update(self, progress_bytes: int, total_bytes: int | None, bytes_synced: int) -> None:
        """Show how far the copy is."""
        if self._bar is not None:
            self._bar.update(
                self._task, completed=progress_bytes, total=total_bytes, on_disk=format_bytes(bytes_synced)
            )

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def format_bytes(size_bytes: int) -> str:
    """Return a size for people: "1.5 GiB"."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
