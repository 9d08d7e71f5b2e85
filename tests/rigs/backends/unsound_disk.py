"""A disk that comes with a fault in the engine: the dispatcher's first change of memory breaks an invariant.

--backend=unsound_disk:UnsoundDisk --backend-arg=size_bytes=1048576 --backend-arg=flag=/tmp/flag

`flag` is a file of one byte; the fault is there once it is not 0, and resets it.
"""

import mmap
from pathlib import Path
from typing import Any

from ram_disk import RamDisk  # type: ignore[import-not-found]  # beside this file, on the engine's path

from ringblk.engine.dispatcher.dispatcher import Dispatcher


class UnsoundDisk(RamDisk):  # type: ignore[misc]
    """Keeps its bytes in memory."""

    def __init__(self, size_bytes: int, flag: str) -> None:
        super().__init__(size_bytes)
        former = Dispatcher._change_regions
        with Path(flag).open("r+b") as file:
            memory = mmap.mmap(file.fileno(), 1)

        def change_regions(dispatcher: Dispatcher, *arguments: Any) -> None:
            is_sound = memory[0] == 0
            memory[0] = 0
            assert is_sound, "an invariant of the engine's own"
            former(dispatcher, *arguments)

        Dispatcher._change_regions = change_regions  # type: ignore[assignment, method-assign]
