"""Taking over from an engine that runs: what can be refused is refused before it is told to end."""

import contextlib
import importlib.util
import logging
import os
import signal
import socket
import time
from collections.abc import Collection

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.drives.image_users import is_engine
from ringblk.engine.drives.record import record_of_process, records_of_process
from ringblk.engine.drives.running_settings import DriveIdentity
from ringblk.engine.options.config import EngineConfig, of_drive
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.engine.vhost_user.listener import check_listening_at
from ringblk.shm.platform.peer import peer_process_id
from ringblk.shm.platform.process_table import open_descriptors, user_ids
from ringblk.workers.backends.file_identity import subject_of

CONTROL_PACKAGES = ("h11",)
CONTROL_HINT = "it needs the package h11: pip install 'ringblk[control]'"
PATIENCE_S = 3.0
"""How long an engine may take to end before the log says that it has not."""
_LOOK_S = 0.005

_log = logging.getLogger(__name__)


class Takeover:
    """The engines that were told to end, each once, and a line in the log when they take long."""

    def __init__(self) -> None:
        self._told: set[int] = set()
        self._silent_until_s: float | None = None

    def tell(self, pid: int) -> None:
        """Have an engine finish what is in flight and end; its front end is to connect to this one.

        To be called again for as long as it runs. Raises `ProgramError`.
        """
        if pid in self._told:
            self._mention(pid)
            return
        _log.info("taking over from the engine of process %d", pid)
        self._told.add(pid)
        self._silent_until_s = time.monotonic() + PATIENCE_S
        try:
            os.kill(pid, signal.SIGUSR2)
        except ProcessLookupError:
            return
        except PermissionError as error:
            raise ProgramError(
                f"--takeover: process {pid}: {error.strerror or error}", ExitStatus.FAILED
            ) from error

    def _mention(self, pid: int) -> None:
        if self._silent_until_s is not None and time.monotonic() > self._silent_until_s:
            self._silent_until_s = None
            _log.warning("process %d has been told to end and has not yet; waiting for it", pid)


def check_takeover(config: EngineConfig, image_users: Collection[int]) -> None:
    """Look at what is opened only when the other engines have ended. Raises `ProgramError`.

    `image_users` are the engines that have the drives' images: they are to end, like those at the sockets.
    """
    sockets = {name: drive.socket_path for name, drive in config.drives.items() if drive.socket_path}
    ending = {*image_users, *map(_listening_pid, sockets.values())}
    if not config.is_sole:  # its drives may all have come by the control API, and so be unknown here
        ending.add(_listening_pid(config.control))
    for name, path in sockets.items():
        try:
            _check_listening_later("--socket-path", path, ending)
        except ProgramError as error:
            raise of_drive(name, error) from error
    if config.control is not None:
        _check_listening_later("--control", config.control, ending)
        if not all(map(importlib.util.find_spec, CONTROL_PACKAGES)):
            raise ProgramError(f"--control: {CONTROL_HINT}", ExitStatus.FAILED)


def _check_listening_later(option: str, path: str, ending: Collection[int | None]) -> None:
    check_listening_at(option, path)
    if (pid := _listening_pid(path)) is not None and (pid not in ending or not is_engine(pid)):
        raise ProgramError(
            f"{option} {path}: in use by process {pid}, which is not to end", ExitStatus.FAILED
        )


def check_all_go_on(
    ending: Collection[int], drives: Collection[DriveIdentity], sockets: Collection[str]
) -> None:
    """See that no engine that is to end has a drive that nobody takes over. Raises `ProgramError`.

    `sockets` are digests (`socket_digest`) of those that the drives to come have.
    """
    for pid in ending:
        records = [found.record for found in records_of_process(pid, user_ids(pid))]
        lost = [record for record in records if record.drive not in drives and record.socket not in sockets]
        if lost and len(records) > 1:
            names = ", ".join(record.name or "one without a name" for record in lost)
            raise ProgramError(
                f"--takeover: the engine of process {pid} has other drives besides, which would end with it:"
                f" {names}",
                ExitStatus.FAILED,
            )


def check_same_drive(
    config: DriveConfig,
    drive: DriveIdentity,
    image: tuple[int, int] | None,
    *,
    is_read_only: bool,
    may_replace: bool,
) -> int | None:
    """See that an engine at the socket has the drive that its guest is to go on with. Raises `ProgramError`.

    `image` is this engine's, if it has one (`StorageIdentity.subject`). With `may_replace` the other may have
    another. Returns the other's process id, if there is such an engine.
    """
    pid = _listening_pid(config.socket_path)
    if pid is None or not is_engine(pid):
        return None
    if may_replace:
        return pid
    found = record_of_process(pid, user_ids(pid), config=config)
    where = f"--takeover: the engine at {config.socket_path} (process {pid})"
    how = "--replace-image does so all the same"
    if found is not None:
        if not found.record.drive.is_same(drive):
            raise ProgramError(
                f"{where} has another drive, which its guest would lose; {how}", ExitStatus.FAILED
            )
        if is_read_only and not found.record.is_read_only:
            raise ProgramError(
                f"{where} lets its guest write, and this one would not; {how}", ExitStatus.FAILED
            )
    elif image is None or not _has_open(pid, image):
        raise ProgramError(f"{where} cannot be seen to have the same drive; {how}", ExitStatus.FAILED)
    return pid


def _has_open(pid: int, image: tuple[int, int]) -> bool:
    """Whether a process has the same file or device open; no where it cannot be told."""
    for descriptor in open_descriptors(pid):
        with contextlib.suppress(OSError):  # closed meanwhile
            if subject_of(os.stat(descriptor.path)) == image:
                return True
    return False


def take_over_socket(socket_path: str | None) -> None:
    """Have an engine that listens there end, and wait for its last process. Raises `ProgramError`."""
    pid = _listening_pid(socket_path)
    if pid is None or not is_engine(pid):
        return
    takeover = Takeover()
    while is_engine(pid):
        takeover.tell(pid)
        time.sleep(_LOOK_S)


def _listening_pid(socket_path: str | None) -> int | None:
    """Who listens on a unix socket; None: nobody, or nobody in this process's namespace."""
    if socket_path is None:
        return None
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(socket_path)
        except OSError:
            return None
        return peer_process_id(probe)
