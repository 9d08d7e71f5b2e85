"""The fetcher as a program, which engines start: `python -m ringblk.engine.fetcher.program FOLDER`.

Its first process ends as soon as the second listens, or says on stdout why none does.
"""

import asyncio
import fcntl
import logging
import os
import signal
import socket
import sys
import time
from typing import NoReturn

from ringblk.engine.base.log_format import name_drive_in_log, start_logging
from ringblk.engine.fetcher.cache_room import note_use
from ringblk.engine.fetcher.fetcher import Fetcher, listen
from ringblk.engine.fetcher.fetcher_sandbox import confine
from ringblk.engine.fetcher.source import Source, SourceFault, make_source
from ringblk.shm.platform.process import set_process_name
from ringblk.shm.sync.process import crash_point
from ringblk.workers.fetch.manifest import Manifest, read_manifest
from ringblk.workers.fetch.source_form import LOCK, SOCKET, SourceSettings, check_uri, read_settings, told_uri
from ringblk.workers.fetch.starting import DIED, connect_fetcher
from ringblk.workers.layers.form import LayerDamaged
from ringblk.workers.layers.live import this_boot

_log = logging.getLogger(__name__)
_LISTENS = b"listens\n"
_WAIT_S = 15.0
_PAUSE_S = 0.02


def main(folder: str) -> None:
    """Serve the source of this folder, in a process of its own, unless another one does."""
    folder = os.path.abspath(folder)
    start_logging("human")
    lock_fd = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not _has_lock(folder, lock_fd):
        return
    try:
        settings = read_settings(folder)
        check_uri(settings.uri)
        source = make_source(settings.uri)
        source.prepare()
        manifest = None if settings.manifest is None else read_manifest(settings.manifest)
    except (SourceFault, LayerDamaged, ValueError) as error:
        _give_up(str(error))
    except OSError as error:
        _give_up(f"{error.filename or folder}: {error.strerror or error}")
    if _fork_server():
        return
    # Who asks the socket who has made it is told of this process.
    try:
        listening = listen(os.path.join(folder, SOCKET))
    except OSError as error:
        _give_up(f"{os.path.join(folder, SOCKET)}: {error.strerror or error}")
    crash_point("fetcher: begun")
    _serve(folder, lock_fd, settings, source, manifest, listening)


def _fork_server() -> bool:
    """Go on in a second process, with what it says on stdout; True in the first, once that is listening."""
    told, tells = os.pipe()
    if os.fork() == 0:
        os.close(told)
        os.dup2(tells, 1)
        os.close(tells)
        return False
    os.close(tells)
    with open(told, "rb") as file:
        reason = file.read()
    if reason != _LISTENS:
        os.write(1, reason)
        os._exit(DIED if not reason else 1)
    return True


def _give_up(reason: str) -> NoReturn:
    print(reason, flush=True)
    os._exit(1)


def _has_lock(folder: str, lock_fd: int) -> bool:
    """Wait until no other fetcher has the folder; False: one has it and serves."""
    for _ in range(int(_WAIT_S / _PAUSE_S)):
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            end: socket.socket | None = connect_fetcher(folder)
            if end is not None:
                end.close()
                return False
            time.sleep(_PAUSE_S)
    _give_up("another fetcher has it, and does not listen")


def _serve(
    folder: str,
    lock_fd: int,
    settings: SourceSettings,
    source: Source,
    manifest: tuple[Manifest, str] | None,
    listening: socket.socket,
) -> None:
    os.setsid()
    os.write(1, _LISTENS)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.close(null)
    set_process_name("rb-fetcher")
    name_drive_in_log(told_uri(settings.uri).partition("?")[0])
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    this_boot()
    fetcher = Fetcher(folder, settings, source, manifest)
    with asyncio.Runner() as runner:
        runner.get_loop()
        note_use(lock_fd)
        confine(os.path.dirname(folder), source.ports)
        runner.run(fetcher.run(listening))
        note_use(lock_fd)
        os._exit(0)  # a thread may wait for the source, and nobody for what it brings


if __name__ == "__main__":
    main(sys.argv[1])
