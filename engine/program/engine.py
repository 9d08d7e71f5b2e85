"""An engine: its drives, its control API, and the signals that end it."""

import asyncio
import logging
import signal
import time
from functools import partial
from typing import TYPE_CHECKING

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.base.service_manager import ServiceManager
from ringblk.engine.drives.plan import DrivePlan
from ringblk.engine.options.config import EngineConfig
from ringblk.engine.program.adoption import as_begun, keep_config
from ringblk.engine.program.drive_list import DriveList
from ringblk.engine.program.kept_form import current_form
from ringblk.engine.program.served_drive import ServedDrive
from ringblk.engine.program.status_report import StatusReport
from ringblk.engine.program.takeover import CONTROL_HINT
from ringblk.engine.supervisor.zygote_process import Zygote

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
    """Serves drives until it is told to end: `prepare`, `run`, and `close` whatever came of them."""

    def __init__(
        self,
        config: EngineConfig,
        zygote: Zygote,
        manager: ServiceManager,
        *,
        is_again: bool = False,
    ) -> None:
        """`is_again`: it goes on in the place of one whose control plane has died."""
        self._config = config
        self._zygote = zygote
        self._report = StatusReport(manager)
        self.drives = DriveList(
            config, zygote, self._note_ended, self._report.note_change, each_alone=is_again
        )
        self._is_to_end = asyncio.Event()
        self._has_given_up = False
        self._first_signal_s: float | None = None
        self._background: set[asyncio.Task[None]] = set()

    def prepare(self) -> None:
        """Open, claim and make the drives, all of them; the end signals are held back then.

        Raises `ProgramError`.
        """
        self.drives.open()
        hold_end_signals()  # one that came now would leave the segments behind
        self.drives.make()

    async def run(self) -> int:
        """Serve; returns the exit status. Raises `ProgramError` where it cannot begin, and `OSError`."""
        self._catch_signals()
        self._import_control()
        if self._config.is_sole:  # the zygote opens nothing
            self._zygote.drop_privileges(self._sole_plan().sandbox.privileges)
        self.drives.begin()
        try:
            control = await self._open_control()
            if self._config.is_sole:
                self._drop_privileges()
        except (ProgramError, OSError):
            self.drives.kill()
            await self.drives.finish()
            raise
        self.drives.serve()
        self._zygote.sockets.close_left()
        if (restart := self._zygote.restart) is not None:
            self._zygote.keep_config(
                partial(keep_config, as_begun(self._config), restart.program_id, current_form())
            )
        self._note_over()
        self._report.begin(self.drives)
        try:
            await self._is_to_end.wait()
            self._report.end()
            await self.drives.drain()
        finally:
            if control is not None:
                await control.close()
            await self.drives.finish()
            hold_end_signals()
        has_failed = any(served.state == "failed" for served in self.drives)
        is_failure = has_failed and (self._config.is_sole or self._has_given_up)
        return ExitStatus.FAILED if is_failure else ExitStatus.DONE

    def close(self) -> bool:
        """Let go of all that was opened; False where a storage has failed at that."""
        return self.drives.close()

    def _note_ended(self, served: ServedDrive) -> None:
        """An engine for one drive ends with it; another when none is left and none can come."""
        self._report.note_change()
        if self._config.is_sole:
            self._is_to_end.set()
            return
        if served.state == "failed":
            finishing = asyncio.get_running_loop().create_task(served.finish())
            self._background.add(finishing)
            finishing.add_done_callback(self._background.discard)
        self._note_over()

    def _note_over(self) -> None:
        """End when no drive is left and none can come."""
        is_over = all(each.state in ("failed", "ended") for each in self.drives)
        if self._config.is_sole:
            return
        if is_over and self._config.control is None and not self._is_to_end.is_set():
            _log.error("the engine ends: no drive is left, and without control none can be added")
            self._has_given_up = True
            self._is_to_end.set()

    # Signals

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in END_SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup(1)
            loop.add_signal_handler(number, self._note_end_signal)
        # The same, but never in a hurry: a successor waits.
        loop.add_signal_handler(signal.SIGUSR2, lambda: self._end(for_successor=True))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)

    def _end(self, *, for_successor: bool = False) -> None:
        self.drives.end(for_successor=for_successor)
        self._is_to_end.set()

    def _note_end_signal(self) -> None:
        """End after what is in flight is done; at a second signal, at once."""
        self._end()
        if self._first_signal_s is None:
            self._first_signal_s = time.monotonic()
        elif time.monotonic() - self._first_signal_s >= SECOND_SIGNAL_AFTER_S:
            _log.warning("told to end twice: killing the children")
            self.drives.kill()

    # What is opened before anybody is served

    def _import_control(self) -> None:
        """Import the control API where it is asked for, before children are forked: memory is shared then."""
        if self._config.control is not None:
            try:
                import ringblk.engine.control.server  # noqa: F401
            except ImportError as error:
                raise ProgramError(f"--control: {CONTROL_HINT}", ExitStatus.FAILED) from error

    async def _open_control(self) -> "ControlServer | None":
        if self._config.control is None:
            return None
        from ringblk.engine.control.engine_control import EngineControl
        from ringblk.engine.control.server import serve_control

        return await serve_control(
            EngineControl(self.drives), self._config.control, keeper=self._zygote.sockets
        )

    def _drop_privileges(self) -> None:
        """All that the only drive needs is open: go on as the user asked for, without capabilities."""
        plan = self._sole_plan()
        for path in (self._config.control, plan.config.socket_path):
            if plan.user is not None and path is not None:
                plan.user.own(path)
        plan.sandbox.privileges.drop()

    def _sole_plan(self) -> DrivePlan:
        (served,) = self.drives
        assert served.plan is not None, "prepare comes first"
        return served.plan
