"""The control plane goes on as the program that is installed now, in the same process.

Nothing of the drives stops: they are left as if the control plane had died, and adopted.
"""

import logging
import os
from collections.abc import Iterable

from ringblk.engine.base.program_start import ADOPT_VARIABLE, UPGRADED
from ringblk.engine.drives.drives import EngineDrive, UpgradeRefused
from ringblk.engine.options.config import EngineConfig
from ringblk.engine.program.adoption import as_begun, keep_config
from ringblk.engine.program.installed import ask_installed
from ringblk.engine.program.storage_opening import StorageOpeners
from ringblk.engine.supervisor.zygote_process import Zygote
from ringblk.engine.zygote.left_sockets import list_sockets
from ringblk.engine.zygote.zygote import flush_standard_streams
from ringblk.shm.platform.process import HAS_ZYGOTE
from ringblk.shm.sync.process import crash_point

_log = logging.getLogger(__name__)


class Upgrade:
    """Of one engine."""

    def __init__(self, config: EngineConfig, zygote: Zygote, openers: StorageOpeners) -> None:
        self._config = config
        self._zygote = zygote
        self._openers = openers

    @property
    def program_id(self) -> str:
        """Of the program that this is."""
        return "" if self._zygote.restart is None else self._zygote.restart.program_id

    async def check(self, drives: Iterable[EngineDrive]) -> str:
        """See that the program that is installed can go on with all of this; its version.

        Raises `UpgradeRefused`.
        """
        restart = self._zygote.restart
        if restart is None:
            raise UpgradeRefused(
                "this host cannot start a control plane again (see the engine's log)"
                if HAS_ZYGOTE
                else "in the portable forms drives end with it: end the engine, and start the new one"
            )
        _check_drives(drives)
        return (await ask_installed(restart.start)).version

    def carry_out(self, drives: Iterable[EngineDrive]) -> None:
        """Never returns, unless the program cannot be begun: the engine goes on as it is then."""
        restart = self._zygote.restart
        assert restart is not None, "check comes first"
        try:
            _check_drives(drives)  # it may have been told to end meanwhile
        except UpgradeRefused as error:
            _log.error("the upgrade is given up: %s", error)
            return
        _log.info("the control plane goes on as the program that is installed now")
        flush_standard_streams()
        config_fd = keep_config(as_begun(self._config), restart.program_id)
        restart.check_kept()
        sockets_fd = list_sockets(restart.sockets)
        crash_point("control plane: about to be upgraded")
        self._openers.end_idle()  # nobody would reap it
        self._zygote.leave()
        crash_point("control plane: zygote left")
        try:
            restart.start.replace_this(
                {ADOPT_VARIABLE: f"{UPGRADED}{config_fd}:{restart.launcher_pidfd}:{sockets_fd}"},
                [config_fd, sockets_fd, *(restart.fds - {restart.config_fd})],
            )
        except OSError as error:
            _log.error("%s cannot be begun: %s; all stays as it was", restart.start.executable, error)
            os.close(config_fd)
            os.close(sockets_fd)


def _check_drives(drives: Iterable[EngineDrive]) -> None:
    """Raises `UpgradeRefused`."""
    for served in drives:
        if served.state in ("starting", "ending"):
            raise UpgradeRefused(f"drive {served.name} is {served.state}: wait for that")
        drive = served.drive
        if drive is not None and drive.is_connected and not drive.processes.are_kept:
            raise UpgradeRefused(
                f"drive {served.name} serves a front end, and is of a backend whose processes end with"
                " the control plane: a class of a user's"
            )
