"""Drives whose bytes an NBD server keeps: loads on them, deaths of the process that has the connections."""

from ringblk import Frontend
from ringblk.engine.load.verified_load import VerifiedLoad
from tests.rigs.engine_process import EngineProcess

WAYS = ["sync", "psync"]
"""Connections are the dispatcher's, or a worker's."""
SERVING = 1
"""The connection of the first process that serves the drive: one before was for a look (--format=raw)."""


def run_load(load: VerifiedLoad, count: int) -> None:
    """So many requests more."""
    wanted = load.request_count + count
    while load.request_count < wanted:
        load.step()


def finish(load: VerifiedLoad) -> None:
    """Nothing is in flight any more, and all is as it was written."""
    load.drain()
    load.verify_all()
    assert load.fault_count == 0, load.faults


def submit_write(disk: Frontend, offset_bytes: int, data: bytes) -> int:
    """Begin a write; its token."""
    buffer = disk.allocate(len(data))
    buffer.view[:] = data
    token = disk.submit_write(offset_bytes, buffer)
    disk.submit()
    return token


def kill_client(engine: EngineProcess, io_engine: str) -> None:
    """Kill the process that has the connections, and wait until that is known."""
    engine.kill("dispatcher" if io_engine == "sync" else "worker-0")
    engine.wait_log("died: killed by SIGKILL")
