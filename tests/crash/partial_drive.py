"""An engine whose requests change parts of blocks, and its front end."""

import contextlib
from pathlib import Path

from ringblk.engine.frontend.frontend import Frontend
from ringblk.engine.frontend.request import BackendGone
from tests.crash.crash_plan import CrashPlan
from tests.rigs import standing_workers
from tests.rigs.crash_load import BLOCK_BYTES
from tests.rigs.engine_process import EngineProcess, listening_engine

IO_ENGINES = ["psync", "io_uring", "sync", "io_uring_inline", "auto"]


class PartialDrive:
    """An engine that goes by blocks of 4096 bytes, with five workers, and a front end with three queues."""

    def __init__(
        self, folder: Path, *options: str, plan: CrashPlan | None = None, io_engine: str = "psync"
    ) -> None:
        self.io_engine = io_engine
        self._socket_path = folder / "socket"
        self._plan_path = plan.path if plan else None
        self._options = ["--workers=5", "--num-queues=3", f"--io-engine={io_engine}", *options]
        self.engine = self._start_engine()
        self.disk = Frontend(str(self._socket_path), num_queues=3, queue_size=256, request_timeout_s=30.0)

    def _start_engine(self) -> EngineProcess:
        program = standing_workers.PROGRAM
        return listening_engine(self._socket_path, self._options, self._plan_path, program)

    def reconnect(self) -> None:
        """Go on with another engine, as often as it takes."""
        self.engine.wait_end()
        self.engine = self._start_engine()
        while not self.engine.has_ended():
            with contextlib.suppress(BackendGone):  # that was the last one's socket
                self.disk.reconnect(str(self._socket_path))
                return
        raise AssertionError(self.engine.log)

    def write(self, offset_bytes: int, data: bytes, queue_index: int = 0) -> int:
        """Have a write in flight; its token."""
        buffer = self.disk.allocate(len(data), BLOCK_BYTES)
        buffer.view[:] = data
        token = self.disk.submit_write(offset_bytes, buffer, queue_index=queue_index)
        self.disk.submit(queue_index=queue_index)
        return token

    def finish(self, tokens: list[int]) -> None:
        """Wait until these are done, with success."""
        assert [self.disk.wait(token, 30.0).status for token in tokens] == [0] * len(tokens)

    def close(self) -> None:
        try:
            self.disk.close()
        finally:
            self.engine.end()
