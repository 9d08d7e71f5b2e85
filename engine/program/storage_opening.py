"""Opening a drive's storage: at an engine's start, or beside drives that are served.

What a file is on may hang, an NFS server for example, and who opens it or reads from it hangs with it, where
not even SIGKILL ends that. So while others are served a process of its own does that and hands over the
descriptors (`Opener`). It has nothing of the other drives, and the engine can end without it. One that has
nothing to do stays for a while: the next storage needs no fork. A class of a user's is made in the engine
itself: its object cannot be handed over.
"""

import asyncio
import os

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.drives.drives import DriveBusy
from ringblk.engine.drives.storage import OpenedStorage
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.engine.program.opener import NotOpened, Opened, Opener, open_here, take_opened
from ringblk.engine.supervisor.child import describe_end
from ringblk.engine.vhost_user.message_socket import wait_readable
from ringblk.shm.sync.channel import ChannelClosed
from ringblk.workers.backends.direct_open import descriptor_of

OPEN_S = 30.0
"""How long storage may take to open: a disk that has to spin up first needs some seconds."""
IDLE_S = 60.0
"""How long a process waits for the next storage. It costs memory, and a fork costs milliseconds."""
OPENER_LIMIT = 24
"""Storages that are being opened at once; the control API has more connections, for all else."""


class _Ended(Exception):  # noqa: N818
    """The process has ended before it has answered."""


class StorageOpeners:
    """Opens storage while drives are served, in processes that may hang."""

    def __init__(self, open_s: float = OPEN_S, idle_s: float = IDLE_S) -> None:
        self._open_s = open_s
        self._idle_s = idle_s
        self._waited_for: set[int] = set()
        """The processes whose answer somebody waits for."""
        self._hanging: dict[str, int] = {}
        """Those that were given up and have not ended, by what they were to open."""
        self._ended: dict[Opener, asyncio.Future[int | None]] = {}
        """All that there are; each future has the wait status once it was reaped."""
        self._idle: Opener | None = None
        self._idle_end: asyncio.TimerHandle | None = None

    async def open(self, config: DriveConfig) -> OpenedStorage:
        """Open it, beside all else.

        Raises `ProgramError`, `DriveBusy`, and `OSError` where there is no process for it.
        """
        if config.backend is not None or config.file_system is not None:
            return open_here(config, is_sole=False)
        option = config.storage_option
        if option in self._hanging:
            text = f"process {self._hanging[option]}, which was to open it, hangs still"
            raise ProgramError(f"{option}: {text}", ExitStatus.FAILED)
        if len(self._waited_for) >= OPENER_LIMIT:
            raise DriveBusy(f"{OPENER_LIMIT} drives are being opened: try again when they are")
        given_fds = _given_fds(config)
        if not given_fds and (idle := self._take_idle()) is not None:
            try:
                idle.ask(config)
                return await self._receive(config, idle, is_kept=True)
            except (ChannelClosed, _Ended):  # somebody has ended it: another comes
                pass
        opener = Opener(config, given_fds)
        self._watch(opener)
        try:
            return await self._receive(config, opener, is_kept=not given_fds and config.uri is None)
        except _Ended as error:
            text = f"the process that was to open the storage ended {error}"
            raise ProgramError(text, ExitStatus.FAILED) from None

    async def _receive(self, config: DriveConfig, opener: Opener, *, is_kept: bool) -> OpenedStorage:
        """What it answers. Raises `ProgramError`, `_Ended`."""
        answer, fds = await self._wait(config, opener)
        if is_kept:
            asyncio.get_running_loop().add_reader(opener.channel.socket.fileno(), self._keep, opener)
        else:
            opener.channel.close()
        if isinstance(answer, NotOpened):
            raise ProgramError(answer.reason, answer.exit_status)
        return take_opened(config, answer, fds)

    async def _wait(self, config: DriveConfig, opener: Opener) -> tuple[Opened | NotOpened, list[int]]:
        pid, ended = opener.process.pid, self._ended[opener]
        self._waited_for.add(pid)
        try:
            async with asyncio.timeout(self._open_s):
                await wait_readable(opener.channel.socket.fileno())
        except BaseException as error:
            opener.channel.close()
            if not ended.done():
                self._hanging[config.storage_option] = pid
                opener.kill()
            if not isinstance(error, TimeoutError):
                raise
            what = "what it is on" if config.base is None else "what it or its base is on"
            text = f"cannot be opened within {self._open_s:g} s: {what} does not answer"
            raise ProgramError(f"{config.storage_option}: {text}", ExitStatus.FAILED) from None
        finally:
            self._waited_for.discard(pid)
        try:
            received = opener.channel.receive()
        except ChannelClosed:
            opener.channel.close()
            raise _Ended(describe_end(await ended)) from None
        assert received is not None, "it was readable"
        answer, fds = received
        assert isinstance(answer, Opened | NotOpened), "it was asked"
        return answer, fds

    # Those that nobody waits for

    def _keep(self, opener: Opener) -> None:
        """It is ready for the next, or has ended: one is enough."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(opener.channel.socket.fileno())
        try:
            received = opener.channel.receive()
        except ChannelClosed:
            received = None
        if received is None or self._idle is not None:
            opener.channel.close()
            return
        self._idle = opener
        self._idle_end = loop.call_later(self._idle_s, self.end_idle)

    def _take_idle(self) -> Opener | None:
        if self._idle_end is not None:
            self._idle_end.cancel()
        opener, self._idle, self._idle_end = self._idle, None, None
        return opener

    def end_idle(self) -> None:
        """Have none that waits for the next storage: it is gone when this returns."""
        opener = self._take_idle()
        if opener is None:
            return
        opener.channel.close()
        opener.kill()
        self._see_end(opener)  # nothing that it could hang in is open there

    def _watch(self, opener: Opener) -> None:
        """Reap it, whenever it ends."""
        loop = asyncio.get_running_loop()
        self._ended[opener] = loop.create_future()
        loop.add_reader(opener.process.pidfd, self._see_end, opener)

    def _see_end(self, opener: Opener) -> None:
        process = opener.process
        asyncio.get_running_loop().remove_reader(process.pidfd)
        process.when_reaped(self._ended.pop(opener).set_result)
        os.close(process.pidfd)
        if self._idle is opener:
            self._take_idle()
            opener.channel.close()
        for option, pid in list(self._hanging.items()):
            if pid == process.pid:
                del self._hanging[option]


def _given_fds(config: DriveConfig) -> set[int]:
    """Descriptors of this process's that the configuration's paths name (`/dev/fd/3`)."""
    paths = (config.blk_file, config.base)
    return {fd for path in paths if path is not None and (fd := descriptor_of(path)) is not None}
