"""Opening a drive's storage: at an engine's start, or beside drives that are served.

What a file is on may hang, an NFS server for example, and who opens it or reads from it hangs with it, where
not even SIGKILL ends that. So while others are served a process of its own does that and hands over the
descriptor. It has nothing of the other drives, and the engine can end without it. A class of a user's is made
in the engine itself: its object cannot be handed over.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from functools import partial

import msgspec

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.printable_text import printable
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.devices.io_plan import IoPlan, plan_io
from ringblk.engine.drives.drives import DriveBusy
from ringblk.engine.drives.storage import OpenedStorage, close_storage, open_storage
from ringblk.engine.images.served_format import check_served_format
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.engine.supervisor.child import describe_end
from ringblk.engine.supervisor.own_forks import OwnProcess, fork_from_here
from ringblk.engine.vhost_user.message_socket import wait_readable
from ringblk.shm.platform.process import signal_process
from ringblk.shm.sync.channel import Channel, ChannelClosed
from ringblk.workers.backends.direct_open import descriptor_of
from ringblk.workers.backends.open_storage import OpenStorage
from ringblk.workers.backends.opening import take_backend

OPEN_S = 30.0
"""How long storage may take to open: a disk that has to spin up first needs some seconds."""
MAX_REASON = 16384
"""Characters; a message has room for more."""
OPENER_LIMIT = 24
"""Storages that are being opened at once; the control API has more connections, for all else."""

_log = logging.getLogger(__name__)


class _Opened(msgspec.Struct, tag=True, frozen=True):
    """What was opened; its descriptors come along."""

    storage: OpenStorage
    io: IoPlan


class _NotOpened(msgspec.Struct, tag=True, frozen=True):
    """Why not, as a `ProgramError` has it."""

    reason: str
    exit_status: ExitStatus


def open_here(config: DriveConfig, *, is_sole: bool) -> OpenedStorage:
    """Open it in this process, which waits for it. Raises `ProgramError`."""
    backend, fds = open_storage(config, is_sole=is_sole)
    try:
        check_served_format(config, backend)
        return OpenedStorage(backend, fds, plan_io(config.io_engine, backend))
    except BaseException:
        close_storage(backend)
        raise


class StorageOpeners:
    """Opens storage while drives are served, in processes that may hang."""

    def __init__(self, open_s: float = OPEN_S) -> None:
        self._open_s = open_s
        self._waited_for: set[int] = set()
        """The processes whose answer somebody waits for."""
        self._hanging: dict[str, int] = {}
        """Those that were given up and have not ended, by what they were to open."""

    async def open(self, config: DriveConfig) -> OpenedStorage:
        """Open it, beside all else.

        Raises `ProgramError`, `DriveBusy`, and `OSError` where there is no process for it.
        """
        if config.blk_file is None and config.uri is None:  # a user's class, or a drive without a disk
            return open_here(config, is_sole=False)
        option = config.storage_option
        if option in self._hanging:
            text = f"process {self._hanging[option]}, which was to open it, hangs still"
            raise ProgramError(f"{option}: {text}", ExitStatus.FAILED)
        if len(self._waited_for) >= OPENER_LIMIT:
            raise DriveBusy(f"{OPENER_LIMIT} drives are being opened: try again when they are")
        our_end, its_end = Channel.socketpair()
        channel: Channel[_Opened | _NotOpened] = Channel(our_end, _Opened | _NotOpened)
        with contextlib.closing(channel):
            given = None if config.blk_file is None else descriptor_of(config.blk_file)
            kept_fds = {its_end.fileno()} | (set() if given is None else {given})
            with contextlib.closing(its_end):
                opener = fork_from_here("rb-opener", partial(_open_and_tell, config, its_end), kept_fds)
            return await self._receive(option, opener, channel)

    async def _receive(
        self, option: str, opener: OwnProcess, channel: Channel[_Opened | _NotOpened]
    ) -> OpenedStorage:
        self._waited_for.add(opener.pid)
        ended = self._watch(option, opener)
        try:
            async with asyncio.timeout(self._open_s):
                await wait_readable(channel.socket.fileno())
        except BaseException as error:
            if not ended.done():
                self._hanging[option] = opener.pid
                signal_process(opener.pidfd, opener.pid, signal.SIGKILL)
            if not isinstance(error, TimeoutError):
                raise
            text = f"cannot be opened within {self._open_s:g} s: what it is on does not answer"
            raise ProgramError(f"{option}: {text}", ExitStatus.FAILED) from None
        finally:
            self._waited_for.discard(opener.pid)
        try:
            received = channel.receive()
            assert received is not None, "it was readable"
        except ChannelClosed:
            text = f"the process that was to open the storage ended {describe_end(await ended)}"
            raise ProgramError(text, ExitStatus.FAILED) from None
        answer, fds = received
        if isinstance(answer, _NotOpened):
            raise ProgramError(answer.reason, answer.exit_status)
        return OpenedStorage(take_backend(answer.storage, fds), frozenset(fds), answer.io)

    def _watch(self, option: str, opener: OwnProcess) -> asyncio.Future[int | None]:
        """Reap it, whenever it ends; the future has its wait status then."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[int | None] = loop.create_future()

        def see_end() -> None:
            loop.remove_reader(opener.pidfd)
            opener.when_reaped(ended.set_result)
            os.close(opener.pidfd)
            if self._hanging.get(option) == opener.pid:
                del self._hanging[option]

        loop.add_reader(opener.pidfd, see_end)
        return ended


def _open_and_tell(config: DriveConfig, end: socket.socket) -> None:
    """All that the process does; it ends with what it has opened."""
    channel: Channel[None] = Channel(end, None)
    try:
        opened = open_here(config, is_sole=False)
        storage, fds = opened.backend.hand_over()
    except ProgramError as error:
        channel.send(_NotOpened(printable(str(error))[:MAX_REASON], error.exit_status))
    except Exception as error:
        _log.exception("the storage cannot be opened")
        channel.send(_NotOpened(f"{type(error).__name__}: see the engine's log", ExitStatus.FAILED))
    else:
        channel.send(_Opened(storage, opened.io), fds)
