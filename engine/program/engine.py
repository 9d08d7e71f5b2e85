"""An engine: its drives, its control API, and the signals that end it."""

import asyncio
import logging
import signal
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.drives.drive import Drive
from ringblk.engine.options.config import EngineConfig
from ringblk.engine.program.takeover import CONTROL_HINT
from ringblk.engine.supervisor.drive_processes import ProcessesFailed
from ringblk.workers.sandbox.sandbox import Sandbox

if TYPE_CHECKING:
    from ringblk.engine.control.server import ControlServer

_log = logging.getLogger(__name__)

END_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What ends an engine once its requests are done; a second one at once."""
SECOND_SIGNAL_AFTER_S = 0.5
"""What comes sooner is the same wish: timeout(1) signals its child, then the group that the child is in."""
HELD_SIGNALS = (*END_SIGNALS, signal.SIGUSR2)
"""Held back while nobody catches them."""


def hold_end_signals() -> None:
    """Hold back what would end the engine, until it catches that itself."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)


class Engine:
    """Serves drives that were made, until it is told to end or one of them has ended."""

    def __init__(self, config: EngineConfig, drives: Sequence[Drive], sandbox: Sandbox) -> None:
        """The end signals are held back."""
        self._config = config
        self._drives = drives
        self._sandbox = sandbox
        self._first_signal_s: float | None = None

    async def run(self) -> int:
        """Serve; returns the exit status. Raises `ProgramError` where it cannot begin, and `OSError`."""
        self._catch_signals()
        self._import_control()
        self._start_drives()
        try:
            control = await self._open_control()
            self._drop_privileges()
        except (ProgramError, OSError):
            await self._stop_drives()
            raise
        for drive in self._drives:
            _log.info("%s", drive.first_line())
        try:
            return await self._run_drives()
        finally:
            if control is not None:
                await control.close()
            await self._stop_drives()
            hold_end_signals()

    def _start_drives(self) -> None:
        """Start all of them, or leave nothing behind of those that were. Raises `ProgramError`, `OSError`."""
        try:
            for drive in self._drives:
                drive.listen()
                drive.start()
        except BaseException:
            for drive in self._drives:
                drive.stop_listening()
                drive.kill()
            raise

    async def _run_drives(self) -> int:
        """Until the first of them ends, and then the others too; returns the exit status."""
        running = [asyncio.ensure_future(drive.run()) for drive in self._drives]
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        self._end_drives()
        await asyncio.wait(running)
        status = 0
        for ended in running:
            try:
                ended.result()
            except ProcessesFailed as error:
                _log.error("the engine ends: %s", error)
                status = 1
        return status

    def _end_drives(self, *, for_successor: bool = False) -> None:
        for drive in self._drives:
            drive.end(for_successor=for_successor)

    async def _stop_drives(self) -> None:
        for drive in self._drives:
            drive.stop_listening()
            await drive.stop()

    # Signals

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in END_SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup(1)
            loop.add_signal_handler(number, self._note_end_signal)
        # The same, but never in a hurry: a successor waits.
        loop.add_signal_handler(signal.SIGUSR2, lambda: self._end_drives(for_successor=True))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)

    def _note_end_signal(self) -> None:
        """End after what is in flight is done; at a second signal, at once."""
        self._end_drives()
        if self._first_signal_s is None:
            self._first_signal_s = time.monotonic()
        elif time.monotonic() - self._first_signal_s >= SECOND_SIGNAL_AFTER_S:
            _log.warning("told to end twice: killing the children")
            for drive in self._drives:
                drive.kill()

    # What is opened before anybody is served

    def _import_control(self) -> None:
        """Import the control API where it is asked for, before children are forked: memory is shared then."""
        if self._config.control is not None:
            try:
                import ringblk.engine.control.server  # noqa: F401
            except ImportError as error:
                raise ProgramError(f"--control: {CONTROL_HINT}", exit_status=1) from error

    async def _open_control(self) -> "ControlServer | None":
        if self._config.control is None:
            return None
        from ringblk.engine.control.engine_control import EngineControl
        from ringblk.engine.control.server import serve_control

        return await serve_control(EngineControl(self._config.control, self._drives), self._config.control)

    def _drop_privileges(self) -> None:
        """Everything is open: go on as the user that was asked for, without capabilities."""
        sockets = [self._config.control, *(drive.config.socket_path for drive in self._drives)]
        for path in sockets:
            if self._sandbox.user is not None and path is not None:
                self._sandbox.user.own(path)
        self._sandbox.drop_privileges()
