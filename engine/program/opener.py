"""A process that opens drives' storage: what that is on may hang, and who opens it or reads it hangs with it.

It begins with one storage, and opens others after it for as long as it is asked to: the fork costs more than
opening a file does.
"""

import contextlib
import logging
import os
import resource
import select
import signal
import socket
from collections.abc import Collection
from functools import partial

import msgspec

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.log_format import current_drive_in_log, name_drive_in_log
from ringblk.engine.base.printable_text import printable
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.devices.io_plan import IoPlan, plan_io
from ringblk.engine.drives.storage import OpenedStorage, base_place, close_storage, open_storage
from ringblk.engine.images.served_format import check_served_format
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.engine.supervisor.own_forks import fork_from_here
from ringblk.shm.platform.process import signal_process
from ringblk.shm.sync.channel import Channel, ChannelClosed
from ringblk.workers.backends.open_storage import OpenStorage
from ringblk.workers.backends.opening import give_opened, take_backend, take_opened_overlay

MAX_REASON = 16384
"""Characters; a message has room for more."""

_log = logging.getLogger(__name__)


class _Open(msgspec.Struct, tag=True, frozen=True):
    """Open another."""

    drive: str
    """Its name in log lines."""
    config: DriveConfig


class Opened(msgspec.Struct, tag=True, frozen=True):
    """What was opened; its descriptors come along."""

    storage: OpenStorage
    io: IoPlan


class NotOpened(msgspec.Struct, tag=True, frozen=True):
    """Why not, as a `ProgramError` has it."""

    reason: str
    exit_status: ExitStatus


class Ready(msgspec.Struct, tag=True, frozen=True):
    """It has let go of what it opened, and would open another."""


def open_here(config: DriveConfig, *, is_sole: bool) -> OpenedStorage:
    """Open it in this process, which waits for it. Raises `ProgramError`."""
    backend, fds = open_storage(config, is_sole=is_sole)
    try:
        check_served_format(config, backend)
        return OpenedStorage(backend, fds, plan_io(config.io_engine, backend))
    except BaseException:
        close_storage(backend)
        raise


class Opener:
    """One such process, as the engine sees it. What it is forked for is this `config`."""

    def __init__(self, config: DriveConfig, given_fds: Collection[int] = ()) -> None:
        """`given_fds` are what the configuration's paths name of this process's. Raises `OSError`."""
        our_end, its_end = Channel.socketpair()
        with contextlib.closing(its_end):
            body = partial(_run, config, its_end)
            try:
                self.process = fork_from_here("rb-opener", body, {its_end.fileno(), *given_fds})
            except OSError:
                our_end.close()
                raise
        self.channel: Channel[Opened | NotOpened | Ready] = Channel(our_end, Opened | NotOpened | Ready)

    def ask(self, config: DriveConfig) -> None:
        """Have it open this, too. Raises `ChannelClosed` where it has ended."""
        self.channel.send(_Open(current_drive_in_log(), config))

    def kill(self) -> None:
        """Have it end, if it can."""
        signal_process(self.process.pidfd, self.process.pid, signal.SIGKILL)


def take_opened(config: DriveConfig, answer: Opened, fds: list[int]) -> OpenedStorage:
    """What such a process has opened, with the descriptors as this one's own. Raises `OSError`."""
    if config.overlay is None:
        backend = take_backend(answer.storage, fds)
        return OpenedStorage(backend, frozenset(fds), answer.io)
    backend = take_opened_overlay(
        answer.storage,
        fds,
        base_place(config),
        size_bytes=config.overlay_size,
        direct=config.direct,
        snapshot=config.base_snapshot,
    )
    return OpenedStorage(backend, frozenset(backend.fds), answer.io)


def _run(config: DriveConfig, end: socket.socket) -> None:
    """All that the process does; it ends with its channel."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the engine knows how many a drive may have
    channel: Channel[_Open] = Channel(end, _Open, takes_fds=False)
    with contextlib.suppress(ChannelClosed):
        while True:
            _open_and_tell(config, channel)
            if config.uri is not None:
                return  # a client's library may have threads, or what is on its way to nobody
            channel.send(Ready())
            select.select([end], [], [])
            received = channel.receive()
            assert received is not None, "it was readable"
            name_drive_in_log(received[0].drive)
            config = received[0].config


def _open_and_tell(config: DriveConfig, channel: Channel[_Open]) -> None:
    """Open it, tell what there is, and let go of it. Raises `ChannelClosed`."""
    try:
        opened = open_here(config, is_sole=False)
        storage, fds, unneeded = give_opened(opened.backend)
    except ProgramError as error:
        channel.send(NotOpened(printable(str(error))[:MAX_REASON], error.exit_status))
    except Exception as error:
        _log.exception("the storage cannot be opened")
        channel.send(NotOpened(f"{type(error).__name__}: see the engine's log", ExitStatus.FAILED))
    else:
        channel.send(Opened(storage, opened.io), fds)
        for fd in unneeded:
            os.close(fd)
        if config.uri is None:
            close_storage(opened.backend)
