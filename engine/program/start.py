"""From a configuration to an engine that runs: the zygote comes first, before asyncio is imported.

The zygote of an engine with a list of drives outlives this process where that dies, and starts it again.
"""

import gc
import logging
import os
from collections.abc import Mapping, Sequence

from ringblk.engine.base.asyncio_import import import_asyncio_without_tls
from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.log_format import start_logging
from ringblk.engine.base.program_start import ADOPT_VARIABLE, ASKED, UPGRADED, ProgramStart
from ringblk.engine.base.service_manager import HandedSocket, ServiceManager
from ringblk.engine.devices.kinds import kind_named
from ringblk.engine.options.config import EngineConfig
from ringblk.engine.program.adoption import keep_config, new_program_id, take_adoption, take_left
from ringblk.engine.program.told_to_end import held_back, told_by_exception
from ringblk.engine.zygote.messages import KeepSocket
from ringblk.engine.zygote.restart import Restart, launcher_pidfd, listening_fds
from ringblk.engine.zygote.stored_sockets import take_stored
from ringblk.engine.zygote.zygote import ZygoteEnd, fork_zygote, take_leave
from ringblk.shm.platform.process import HAS_ZYGOTE, set_process_name
from ringblk.shm.sync.process import crash_point
from ringblk.workers.backends.opening import import_backend

_log = logging.getLogger(__name__)


def start_engine(
    config: EngineConfig,
    start: ProgramStart,
    manager: ServiceManager,
    stored: Sequence[HandedSocket] = (),
) -> int:
    """Run an engine until it ends; its exit status. Raises `ProgramError`.

    `stored` are sockets that the service manager has kept of an engine before this one.
    """
    start_logging(config.log_format)
    if config.is_sole:
        for end in stored:  # of one with a list of drives
            os.close(end.fd)
        zygote_end = _fork_zygote(config, None) if config.runs_own_code_only else None
        return _serve(config, manager, zygote_end)
    restart = _plan_restart(config, start, sockets=take_stored(stored))
    with told_by_exception():
        with held_back():
            zygote_end = _fork_zygote(config, restart)
        return _serve_list(config, manager, zygote_end, restart)
    return ExitStatus.FAILED


def start_again(start: ProgramStart, manager: ServiceManager) -> int:
    """The same for an engine that is there: whatever `ADOPT_VARIABLE` says. Raises `ProgramError`."""
    words = os.environ[ADOPT_VARIABLE]
    if words.startswith(ASKED):
        from ringblk.engine.program.installed import answer_installed  # asyncio: not before a zygote

        return answer_installed(words.removeprefix(ASKED))
    if words.startswith(UPGRADED):
        return _start_upgraded(words.removeprefix(UPGRADED), start, manager)
    return _start_in_place(start, manager)


def _start_upgraded(fd_texts: str, start: ProgramStart, manager: ServiceManager) -> int:
    """In the process of the program before this one, whose zygote has left: with a zygote of its own."""
    del os.environ[ADOPT_VARIABLE]
    left = take_left(fd_texts)
    config = left.kept.config
    start_logging(config.log_format)
    crash_point("control plane: upgraded")
    restart = _plan_restart(config, start, left.launcher_pidfd, left.sockets)
    with told_by_exception():
        with held_back():
            zygote_end = _fork_zygote(config, restart)
        return _serve_list(config, manager, zygote_end, restart, is_again=True)
    return ExitStatus.FAILED


def _start_in_place(start: ProgramStart, manager: ServiceManager) -> int:
    """In the place of a process that has died: with what its zygote has kept."""
    set_process_name(start.name)
    adoption = take_adoption(os.environ)
    start_logging(adoption.config.log_format)
    crash_point("control plane: started again")
    restart = Restart(
        start,
        adoption.program_id,
        adoption.config_fd,
        listening_fds(adoption.config),
        adoption.launcher_pidfd,
        adoption.sockets,
    )
    with told_by_exception():
        return _serve_list(adoption.config, manager, adoption.zygote_end, restart, is_again=True)
    return ExitStatus.FAILED


def _plan_restart(
    config: EngineConfig,
    start: ProgramStart,
    launcher: int = -1,
    sockets: Mapping[int, KeepSocket] | None = None,
) -> Restart | None:
    """What it takes to start this engine's control plane again; None: this host cannot.

    `launcher` is known where a control plane before this one was to end with it, `sockets` are of that one.
    """
    if not HAS_ZYGOTE:
        return None
    try:
        launcher = launcher_pidfd() if launcher < 0 else launcher
        program_id = new_program_id()
        config_fd = keep_config(config, program_id)
        return Restart(start, program_id, config_fd, listening_fds(config), launcher, sockets)
    except OSError as error:
        _log.warning("the control plane cannot be started again, should it die: %s", error)
        return None


def _fork_zygote(config: EngineConfig, restart: Restart | None) -> ZygoteEnd | None:
    """While nothing is imported that it has no use for; None where a system has none. Raises `OSError`."""
    if not HAS_ZYGOTE:
        return None
    for drive in config.drives.values():
        kind_named(drive.kind)
        if not drive.runs_user_code:
            name = drive.backend if drive.overlay is None else "overlay"
            import_backend(name, is_folder=drive.shared_dir is not None)
    if not config.is_sole and config.control is not None:  # any may come
        import_backend(None)
        import_backend("memory")
    gc.freeze()  # a collection would write to all that this process shares with the zygote
    return fork_zygote(restart)


def _serve_list(
    config: EngineConfig,
    manager: ServiceManager,
    zygote_end: ZygoteEnd | None,
    restart: Restart | None,
    *,
    is_again: bool = False,
) -> int:
    try:
        return _serve(config, manager, zygote_end, restart, is_again=is_again)
    finally:
        if zygote_end is not None:
            take_leave(zygote_end)  # nothing, where the engine has got as far as to do so


def _serve(
    config: EngineConfig,
    manager: ServiceManager,
    zygote_end: ZygoteEnd | None,
    restart: Restart | None = None,
    *,
    is_again: bool = False,
) -> int:
    if config.runs_own_code_only:
        import_asyncio_without_tls()
    from ringblk.engine.program.serve import serve  # asyncio and all that: not before the zygote

    return serve(config, manager=manager, zygote_end=zygote_end, restart=restart, is_again=is_again)
