"""What the fixture `recorded_folder` is."""

from collections.abc import Callable
from pathlib import Path

from ringblk.engine.crashes.recorded_folder import RecordedFolder

Record = Callable[[Path], RecordedFolder]
