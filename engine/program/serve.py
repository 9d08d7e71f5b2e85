"""One engine from start to end: image, segment, children, and one front end after the other."""

import asyncio
import logging
import signal
import time
from typing import TYPE_CHECKING, Any, NoReturn

from ringblk.engine.base.open_files import reserve_open_files
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.devices.device_kind import DeviceKind
from ringblk.engine.devices.io_plan import plan_io
from ringblk.engine.devices.kinds import DEFAULT_KIND
from ringblk.engine.drives.drive import Drive
from ringblk.engine.drives.engine_facts import engine_facts
from ringblk.engine.drives.engine_segments import create_engine_segment, user_ids
from ringblk.engine.drives.limits import open_limits
from ringblk.engine.drives.record import (
    FoundRecord,
    clear_records,
    find_predecessor,
    identify,
    record_of_process,
)
from ringblk.engine.drives.running_settings import DriveIdentity, RunningSettings
from ringblk.engine.drives.taken_settings import take_settings
from ringblk.engine.options.config import EngineConfig
from ringblk.engine.program.image_claim import claim_image, engines_on, remove_dead_engines
from ringblk.engine.program.sandbox_plan import plan_sandbox, plan_user
from ringblk.engine.program.served_format import check_served_format
from ringblk.engine.program.takeover import (
    CONTROL_HINT,
    check_same_drive,
    check_takeover,
    is_engine,
    take_over_socket,
)
from ringblk.engine.supervisor.child import open_fds
from ringblk.engine.supervisor.drive_processes import ProcessesFailed
from ringblk.engine.supervisor.process_setup import ProcessSetup
from ringblk.engine.vhost_user.listener import Listener
from ringblk.shm.segments.segment import SegmentError
from ringblk.shm.sync.process import crash_point
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.opening import open_image_backend, open_named_backend
from ringblk.workers.sandbox.process_user import ProcessUser
from ringblk.workers.sandbox.sandbox import Sandbox

if TYPE_CHECKING:
    from ringblk.engine.control.server import ControlServer

_log = logging.getLogger(__name__)

MAX_SLOTS = 8192
"""Requests in flight at once in one engine; what is offered beyond waits in its ring."""
MAX_RANGES = 1 << 21
"""Pieces of guest memory that all slots together can name; bounds the segment at 32 MiB and a little."""

END_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What ends an engine once its requests are done; a second one at once."""
SECOND_SIGNAL_AFTER_S = 0.5
"""What comes sooner is the same wish: timeout(1) signals its child, then the group that the child is in."""
HELD_SIGNALS = (*END_SIGNALS, signal.SIGUSR2)
"""Held back while nobody catches them."""


def serve(config: EngineConfig, kind: DeviceKind = DEFAULT_KIND) -> int:
    """Run an engine until it is told to end; returns the exit status. Raises `ProgramError`."""
    user = plan_user(config)
    reserve_open_files(config.workers, config.num_queues)
    try:
        backend = open_backend(config)
    except (BackendError, ValueError) as error:
        raise ProgramError(str(error), exit_status=1) from error
    except OSError as error:
        raise ProgramError(f"--blk-file {config.blk_file}: {error.strerror or error}", 1) from error
    try:
        status = _serve_backend(config, kind, user, backend)
    finally:
        is_closed = close_backend(backend)
    return status if is_closed else 1


def _serve_backend(
    config: EngineConfig, kind: DeviceKind, user: ProcessUser | None, backend: NativeBackend
) -> int:
    """Make the drive of an open backend and serve it. Raises `ProgramError`."""
    device = kind.make_device(config, backend)
    if backend.is_image:
        check_served_format(config, backend)
    sandbox = plan_sandbox(config, backend, user, kind.system_calls)
    plan = plan_io(config.io_engine, backend)
    inherited = Listener.from_fd(config.fd) if config.fd is not None else None
    identity = identify(config, backend)
    found = _claim(config, backend, identity, user)
    # Held back while nobody catches them: one that came now would leave the segment behind.
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
    try:
        state = create_engine_segment(slot_count(config), config.queue_size, kind)
    except SegmentError as error:
        raise ProgramError(str(error), exit_status=1) from error
    if (storage := backend.identity()) is not None:
        state.set_image(*storage.subject)
    goes_on = found is not None  # should the start fail: what was taken over waits for the next attempt
    drive = limits = None
    try:
        settings = take_settings(config, backend, device, plan, found) if found else RunningSettings()
        limits = open_limits(config, state, settings.limits, [user.uid] if user is not None else [])
        if user is not None:  # who is to remove them in the end
            user.own(state.fileno())
            if limits.group is not None and limits.group.is_creator:
                user.own(limits.group.fileno())
        facts = engine_facts(config, backend, plan, sandbox)
        requests = kind.make_requests(config, backend)
        # The front end's socket is none of the children's.
        inherited_fds = frozenset(open_fds() - {config.fd})
        setup = ProcessSetup(
            config=config,
            backend=backend,
            requests=requests,
            state=state,
            rate_limit=limits.limit,
            sandbox=sandbox,
            plan=plan,
            inherited_fds=inherited_fds,
        )
        drive = Drive(setup, device, limits, identity, facts, settings)
        if user is not None:
            user.own(drive.publication.fileno())
        if found is not None:
            crash_point("record: former one about to be removed")
            found.remove()
            crash_point("record: former one removed")
        clear_records()
        status, goes_on = asyncio.run(_serve(drive, inherited, sandbox))
        return status
    finally:
        if limits is not None:
            limits.leave(goes_on=goes_on)
        if drive is not None:
            drive.publication.close(goes_on=goes_on)
        state.close()


def _claim(
    config: EngineConfig, backend: NativeBackend, identity: DriveIdentity, user: ProcessUser | None
) -> FoundRecord | None:
    """Be the only one on this drive; what the engine before has left. Raises `ProgramError`.

    An engine that is to be taken over from is told to end when nothing that can be refused is left.
    """
    storage = backend.identity()
    image = storage.subject if storage is not None else None
    is_read_only = config.read_only or backend.read_only
    ending: list[int] = []
    unknown: list[int] = []
    trusted = {user.uid} if user is not None else set()
    if config.takeover:
        ending = engines_on(image) if image is not None else []
        check_takeover(config, ending)
        at_socket = check_same_drive(config, identity, image, is_read_only=is_read_only)
        ending = [pid for pid in {*ending, at_socket} if pid is not None and is_engine(pid)]
        trusted |= {uid for pid in ending for uid in user_ids(pid)}  # who ends one goes on with what it had
        unknown = [pid for pid in ending if record_of_process(pid, trusted) is None]
        take_over_socket(config.socket_path)
    name = config.blk_file or config.drive_name  # a backend of a user's own may be a file, too
    claim_image(name, backend, takes_over=config.takeover)
    found = find_predecessor(config, identity, is_read_only=is_read_only, trusted_users=trusted)
    if found is None and config.replace_image and ending:
        found = record_of_process(ending[0], trusted)
    if found is None and unknown:  # one that had a record leaves none where there was nothing to say
        _log.warning(
            "the engine before this one (process %d) has left no record: what was set while it ran is lost",
            unknown[0],
        )
    orphans = remove_dead_engines(image or (0, 0))
    if orphans:
        _log.info("removed shared memory of engines that were killed: %s", ", ".join(orphans))
    return found


def open_backend(config: EngineConfig) -> NativeBackend:
    """The drive's storage. Raises `ProgramError`, `BackendError` or `OSError`."""
    if config.blk_file is None:
        assert config.backend is not None  # EngineConfig.check: one of the two is given
        return open_named_backend(config.backend, config.backend_arg)
    try:
        return open_image_backend(config.blk_file, read_only=config.read_only, direct=config.direct)
    except BackendError as error:
        raise ProgramError(f"--blk-file {error}", exit_status=1) from error


def close_backend(backend: NativeBackend) -> bool:
    """Let go of the storage, which no child uses any more; False, and a log line, where that fails."""
    try:
        backend.close()
    except (Exception, SystemExit):  # a user's own method: anything may come of it
        _log.exception("closing the backend failed")
        return False
    return True


def slot_count(config: EngineConfig) -> int:
    """Request slots: enough for all queues up to a limit, fewer where each must hold a very long chain."""
    wanted = min(MAX_SLOTS, config.queue_size * config.num_queues, MAX_RANGES // config.queue_size)
    return 1 << max(6, (wanted - 1).bit_length())


async def _serve(drive: Drive, inherited: Listener | None, sandbox: Sandbox) -> tuple[int, bool]:
    """The exit status, and whether the drive is to go on with another engine."""
    config, stopped = drive.config, asyncio.Event()
    loop = asyncio.get_running_loop()
    end_signal = _EndSignal(stopped, drive)
    for number in END_SIGNALS:
        if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
            continue  # nohup(1)
        loop.add_signal_handler(number, end_signal.note)
    # The same, but never in a hurry: a successor waits.
    loop.add_signal_handler(signal.SIGUSR2, end_signal.note_successor)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)
    listener = inherited or _open_listener(config)
    drive.start()
    try:
        control = await _open_control(drive)
        _drop_privileges(config, sandbox)
    except ProgramError:
        listener.close()
        await drive.stop()
        raise
    _log.info("%s", drive.first_line())
    sessions = loop.create_task(drive.serve(listener))
    stopping = loop.create_task(stopped.wait())
    failing = loop.create_task(drive.processes.wait_failure())
    try:
        ends: set[asyncio.Future[Any]] = {sessions, stopping, failing}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if failing.done():
            failing.result()
        # A front end that is connected now connects to the next engine.
        has_front_end = drive.has_front_end
        await _end_sessions(sessions, failing)
        return 0, has_front_end or end_signal.is_succeeded
    except ProcessesFailed as error:
        _log.error("the engine ends: %s", error)
        drive.kill()
        return 1, True
    finally:
        listener.close()
        if control is not None:
            await control.close()
        stopping.cancel()
        failing.cancel()
        sessions.cancel()
        await asyncio.wait({sessions})
        await drive.stop()
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)


def _drop_privileges(config: EngineConfig, sandbox: Sandbox) -> None:
    """Everything is open: go on as the user that was asked for, without capabilities."""
    for path in (config.socket_path, config.control):
        if sandbox.user is not None and path is not None:
            sandbox.user.own(path)
    sandbox.drop_privileges()


def _open_listener(config: EngineConfig) -> Listener:
    assert config.socket_path is not None  # EngineConfig.check: or a socket was inherited
    return Listener.at_path(config.socket_path)


async def _open_control(drive: Drive) -> "ControlServer | None":
    """Serve the control API where it is asked for; its libraries are imported nowhere else."""
    if drive.config.control is None:
        return None
    try:
        from ringblk.engine.control.engine_control import EngineControl
        from ringblk.engine.control.server import serve_control

        return await serve_control(EngineControl(drive), drive.config.control)
    except ImportError as error:
        raise ProgramError(f"--control: {CONTROL_HINT}", exit_status=1) from error


class _EndSignal:
    """Ends the engine after what is in flight is done; at a second signal, at once."""

    def __init__(self, stopped: asyncio.Event, drive: Drive) -> None:
        self._stopped = stopped
        self._drive = drive
        self._first_s: float | None = None
        self.is_succeeded = False
        """Whether a successor has said that it goes on."""

    def note_successor(self) -> None:
        """A successor waits."""
        self.is_succeeded = True
        self._stopped.set()

    def note(self) -> None:
        """A signal has come."""
        self._stopped.set()
        if self._first_s is None:
            self._first_s = time.monotonic()
        elif time.monotonic() - self._first_s >= SECOND_SIGNAL_AFTER_S:
            _log.warning("told to end twice: killing the children")
            self._drive.kill()


async def _end_sessions(sessions: "asyncio.Task[None]", failing: "asyncio.Task[NoReturn]") -> None:
    """End the session that runs, if one does: it drains its rings. A failure meanwhile is raised."""
    sessions.cancel()
    await asyncio.wait({sessions, failing}, return_when=asyncio.FIRST_COMPLETED)
    if failing.done():
        failing.result()
    if not sessions.cancelled():
        sessions.result()
