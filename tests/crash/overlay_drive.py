"""A drive with a base and an overlay, under a load that changes parts of blocks."""

import os
import subprocess
import tempfile
from pathlib import Path

from ringblk.workers.backends.overlay import OverlayBackend
from ringblk.workers.layers.folder import LIVE
from tests.crash.crash_plan import CrashPlan
from tests.crash.partial_drive import PartialDrive
from tests.crash.partial_load import PartialLoad
from tests.rigs.crash_load import BLOCK_BYTES, pattern

BASE_STAMP = 1 << 40
SECTORS = BLOCK_BYTES // 512


class OverlayDrive:
    """All blocks are in the base at first, and each can be told from all others."""

    def __init__(
        self,
        folder: Path,
        num_blocks: int,
        seed: int,
        *,
        io_engine: str = "psync",
        plan: CrashPlan | None = None,
        size_bytes: int = 0,
    ) -> None:
        # On a disk: who reads a file in memory may see half of a sector that is being written.
        self._disk_folder = tempfile.TemporaryDirectory(dir="/var/tmp", prefix="ringblk-test-")
        self.base = Path(self._disk_folder.name) / "base"
        self.overlay = Path(self._disk_folder.name) / "overlay"
        self.base.write_bytes(b"".join(pattern(BASE_STAMP, sector) for sector in range(num_blocks * SECTORS)))
        options = [f"--base={self.base}", f"--overlay={self.overlay}"]
        if size_bytes:
            options.append(f"--overlay-size={size_bytes}")
        self.drive = PartialDrive(folder, *options, io_engine=io_engine, plan=plan)
        self.load = PartialLoad(self.drive.disk, num_blocks, seed, first_stamp=BASE_STAMP, flushes=True)

    def check_after_power_failure(self) -> None:
        """Flush, kill everything, lose all that only memory had; what is read then is what may be there."""
        self.drive.disk.flush()
        self.drive.engine.kill("supervisor")
        self.drive.engine.wait_end()
        self.drive.engine.end()
        after = self.overlay.with_name("after")
        # Not shutil's, which writes out holes: gigabytes, of a huge drive.
        subprocess.run(["cp", "--recursive", "--sparse=auto", self.overlay, after], check=True)
        for live in list(after.rglob(LIVE)):
            live.unlink()
        backend = OverlayBackend(self.base, after)
        backend.image_lock().lock()
        content = bytearray(os.stat(self.base).st_size)
        backend.read_at(0, content)
        backend.close()
        self.load.check_bytes(memoryview(content))

    def close(self) -> None:
        """End it all."""
        self.drive.close()
        self._disk_folder.cleanup()
