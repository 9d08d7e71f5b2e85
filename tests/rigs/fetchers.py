"""Fetchers that run: found by the folders of their sources."""

import contextlib
import fcntl
import os
import signal
from pathlib import Path

from ringblk.shm.platform.peer import peer_process_id
from ringblk.workers.fetch.source_form import LOCK, source_folder
from ringblk.workers.fetch.starting import connect_fetcher
from tests.rigs.engine_rig import eventually


def folder_of(cache: Path) -> Path:
    """That of the only source in a cache."""
    (folder,) = cache.iterdir()
    return folder


def fetcher_of(cache: Path) -> int | None:
    """The process id of the fetcher of the only source in a cache; None: there is none."""
    with contextlib.suppress(OSError):
        end = connect_fetcher(str(folder_of(cache)))
        if end is not None:
            with end:
                return peer_process_id(end)
    return None


def wait_fetcher_gone(cache: Path, uri: str) -> None:
    """Wait until the fetcher of a source has ended, which nobody uses any more."""
    lock_fd = os.open(Path(source_folder(str(cache), uri), LOCK), os.O_RDWR)
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX)
    finally:
        os.close(lock_fd)


def kill_fetcher(cache: Path) -> int:
    """SIGKILL the fetcher that is there; which one that was."""
    eventually(lambda: fetcher_of(cache) is not None, "a fetcher")
    pid = fetcher_of(cache)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid
