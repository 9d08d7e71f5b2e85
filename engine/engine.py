"""One engine from start to end: image, segment, children, and one front end after the other."""

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ringblk.engine.block_device import BlockDevice, BlockDeviceConfig
from ringblk.engine.child import open_fds
from ringblk.engine.config import ConfigError, EngineConfig
from ringblk.engine.descriptor_seal import has_hung_up, is_read_by_peer
from ringblk.engine.engine_segments import create_engine_segment
from ringblk.engine.image_claim import claim_image, engines_on, image_identity, remove_dead_engines
from ringblk.engine.listener import Listener
from ringblk.engine.open_files import reserve_open_files
from ringblk.engine.sandbox_plan import plan_sandbox, plan_user
from ringblk.engine.session import Session
from ringblk.engine.supervisor import EngineFailed, Supervisor
from ringblk.engine.takeover import CONTROL_HINT, check_takeover, peer_process_id, take_over_socket
from ringblk.shm.rate_group import RateGroup, RateGroupError
from ringblk.shm.rate_limit import RateLimit
from ringblk.shm.rate_limit_settings import RateLimitSettings
from ringblk.shm.segment import SegmentError
from ringblk.shm.state import StateSegment
from ringblk.workers.backend import BackendError
from ringblk.workers.file_backend import FileBackend
from ringblk.workers.native_backend import NativeBackend
from ringblk.workers.sandbox import Sandbox

if TYPE_CHECKING:
    from ringblk.engine.control_server import ControlServer

_log = logging.getLogger(__name__)

MAX_SLOTS = 8192
"""Requests in flight at once in one engine; what is offered beyond waits in its ring."""
MAX_RANGES = 1 << 21
"""Pieces of guest memory that all slots together can name; bounds the segment at 32 MiB and a little."""

END_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What ends an engine once its requests are done; a second one at once."""
SECOND_SIGNAL_AFTER_S = 0.5
"""What comes sooner is the same wish: timeout(1) signals its child, then the group that the child is in."""
STALL_LIMIT_S = 1.0
"""How long a front end may owe a message or the reading of ours while another waits."""
HELD_SIGNALS = (*END_SIGNALS, signal.SIGUSR2)
"""Held back while nobody catches them."""


def serve(config: EngineConfig) -> int:
    """Run an engine until it is told to end; returns the exit status. Raises `ConfigError`."""
    user = plan_user(config)
    reserve_open_files(config, config.workers)
    try:
        backend = open_backend(config)
        device = BlockDevice(device_config(config, backend))
    except (BackendError, ValueError) as error:
        raise ConfigError(str(error), exit_status=1) from error
    except OSError as error:
        raise ConfigError(f"--blk-file {config.blk_file}: {error.strerror or error}", 1) from error
    if device.bytes_out_of_reach:
        _log.warning(
            "the guest does not see the last %d bytes: no whole logical block of %d",
            device.bytes_out_of_reach,
            device.logical_block_size_bytes,
        )
    sandbox = plan_sandbox(config, user)
    inherited = Listener.from_fd(config.fd) if config.fd is not None else None
    if config.takeover:  # the other engine is told to end: what can be refused is refused before
        check_takeover(config, engines_on(backend.fileno()) if isinstance(backend, FileBackend) else [])
        take_over_socket(config.socket_path)
    own_image = (0, 0)
    if isinstance(backend, FileBackend):
        assert config.blk_file is not None
        claim_image(
            config.blk_file, backend.fileno(), read_only=backend.read_only, takes_over=config.takeover
        )
        own_image = image_identity(backend.fileno())
    orphans = remove_dead_engines(own_image)
    if orphans:
        _log.info("removed shared memory of engines that were killed: %s", ", ".join(orphans))
    # Held back while nobody catches them: one that came now would leave the segment behind.
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
    try:
        state = create_engine_segment(slot_count(config), config.queue_size)
    except SegmentError as error:
        raise ConfigError(str(error), exit_status=1) from error
    state.set_image(*own_image)
    try:
        with rate_limit(config, state, [user.uid] if user is not None else []) as (limit, limit_settings):
            if user is not None:  # who is to remove them in the end
                user.own(state.fileno())
                if isinstance(limit_settings, RateGroup) and limit_settings.is_creator:
                    user.own(limit_settings.fileno())
            inherited_fds = open_fds() - {config.fd}  # the front end's socket is none of the children's
            make_supervisor = partial(
                Supervisor, config, device, backend, state, limit, sandbox, inherited_fds
            )
            return asyncio.run(
                _serve(config, inherited, make_supervisor, sandbox, state, limit, limit_settings)
            )
    finally:
        state.close()


@contextlib.contextmanager
def rate_limit(
    config: EngineConfig, state: StateSegment, trusted_users: list[int]
) -> Iterator[tuple[RateLimit, RateLimit | RateGroup]]:
    """The drive's own limit, or its group's for as long as it is a member, and where it is set.

    Raises `ConfigError`.
    """
    settings = config.rate_limits()
    if config.rate_group is None:
        state.rate_limit.configure(settings, time.monotonic_ns())
        yield state.rate_limit, state.rate_limit
        return
    try:
        group = RateGroup(config.rate_group, settings, time.monotonic_ns(), trusted_users)
    except RateGroupError as error:
        raise ConfigError(f"--rate-group: {error}", exit_status=1) from error
    if not group.is_creator and settings != RateLimitSettings():
        _log.warning("rate group %s exists: its limits hold, not those given here", config.rate_group)
    try:
        yield group.limit, group
    finally:
        group.leave()


def open_backend(config: EngineConfig) -> NativeBackend:
    """The drive's storage. Raises `ConfigError`, `BackendError` or `OSError`."""
    if config.blk_file is None:
        assert config.backend is not None  # EngineConfig.check: one of the two is given
        from ringblk.workers.backend_loader import load_backend  # and the backends that it knows

        return load_backend(config.backend, config.backend_arg)
    try:
        return FileBackend(config.blk_file, read_only=config.read_only, direct=config.direct)
    except BackendError as error:
        raise ConfigError(f"--blk-file {error}", exit_status=1) from error


def device_config(config: EngineConfig, backend: NativeBackend) -> BlockDeviceConfig:
    """The device as the driver is to see it."""
    return BlockDeviceConfig(
        capacity_bytes=backend.size_bytes,
        read_only=config.read_only or backend.read_only,
        cache=config.cache,
        num_queues=config.num_queues,
        queue_size=config.queue_size,
        logical_block_size_bytes=config.logical_block_size or backend.block_size_bytes,
    )


def slot_count(config: EngineConfig) -> int:
    """Request slots: enough for all queues up to a limit, fewer where each must hold a very long chain."""
    wanted = min(MAX_SLOTS, config.queue_size * config.num_queues, MAX_RANGES // config.queue_size)
    return 1 << max(6, (wanted - 1).bit_length())


async def _serve(
    config: EngineConfig,
    inherited: Listener | None,
    make_supervisor: Callable[[], Supervisor],
    sandbox: Sandbox,
    state: StateSegment,
    limit: RateLimit,
    limit_settings: RateLimit | RateGroup,
) -> int:
    stopped = asyncio.Event()
    supervisor = make_supervisor()
    loop = asyncio.get_running_loop()
    end_signal = _EndSignal(stopped, supervisor)
    for number in END_SIGNALS:
        if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
            continue  # nohup(1)
        loop.add_signal_handler(number, end_signal.note)
    loop.add_signal_handler(signal.SIGUSR2, stopped.set)  # the same, but never in a hurry: a successor waits
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)
    listener = inherited or _open_listener(config)
    supervisor.start()
    try:
        control = await _open_control(config, supervisor, state, limit, limit_settings)
        _drop_privileges(config, sandbox)
    except ConfigError:
        listener.close()
        await supervisor.stop()
        raise
    sessions = loop.create_task(_serve_sessions(listener, supervisor))
    stopping = loop.create_task(stopped.wait())
    try:
        ends: set[asyncio.Future[Any]] = {sessions, stopping, supervisor.failure}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if supervisor.failure.done():
            supervisor.failure.result()
        await _end_sessions(sessions, supervisor)
        return 0
    except EngineFailed as error:
        _log.error("the engine ends: %s", error)
        return 1
    finally:
        listener.close()
        if control is not None:
            await control.close()
        stopping.cancel()
        sessions.cancel()
        await asyncio.wait({sessions})
        await supervisor.stop()
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


async def _open_control(
    config: EngineConfig,
    supervisor: Supervisor,
    state: StateSegment,
    limit: RateLimit,
    limit_settings: RateLimit | RateGroup,
) -> "ControlServer | None":
    """Serve the control API where it is asked for; its libraries are imported nowhere else."""
    if config.control is None:
        return None
    try:
        from ringblk.engine.control_server import serve_control
        from ringblk.engine.engine_control import EngineControl

        engine_control = EngineControl(config, supervisor, state, limit, limit_settings)
        return await serve_control(engine_control, config.control)
    except ImportError as error:
        raise ConfigError(f"--control: {CONTROL_HINT}", exit_status=1) from error


class _EndSignal:
    """Ends the engine after what is in flight is done; at a second signal, at once."""

    def __init__(self, stopped: asyncio.Event, supervisor: Supervisor) -> None:
        self._stopped = stopped
        self._supervisor = supervisor
        self._first_s: float | None = None

    def note(self) -> None:
        """A signal has come."""
        self._stopped.set()
        if self._first_s is None:
            self._first_s = time.monotonic()
        elif time.monotonic() - self._first_s >= SECOND_SIGNAL_AFTER_S:
            _log.warning("told to end twice: killing the children")
            self._supervisor.kill()


async def _serve_sessions(listener: Listener, supervisor: Supervisor) -> None:
    async for connected in listener.connections():
        session = Session(connected, supervisor)
        yielding = asyncio.ensure_future(_yield_to_next(session, listener))
        supervisor.set_front_end(peer_process_id(connected))
        supervisor.changes.notify_config_change = session.notify_config_change
        supervisor.reports.end_session = session.end
        listener.call_when_sealed(partial(_end_if_handed_over, session, connected))
        try:
            await session.serve()
        finally:
            yielding.cancel()
            await asyncio.wait({yielding})  # it looks at the listener no more when the next is accepted
            supervisor.changes.notify_config_change = None
            supervisor.reports.end_session = None
            listener.call_when_sealed(None)


def _end_if_handed_over(session: Session, connected: socket.socket) -> None:
    """End the session if another front end has had its other end among what it sent."""
    if not is_read_by_peer(connected) and not has_hung_up(connected):
        session.end("its other end was handed over")


async def _yield_to_next(session: Session, listener: Listener) -> None:
    """A front end that owes us something and does not go on makes room for one that waits."""
    if listener.is_connected:
        return
    await listener.wait_next()
    while session.stalled_s < STALL_LIMIT_S:
        await asyncio.sleep(STALL_LIMIT_S)
    session.end(f"another front end waits, and this one has not gone on for {STALL_LIMIT_S:g} s")


async def _end_sessions(sessions: "asyncio.Task[None]", supervisor: Supervisor) -> None:
    """End the session that runs, if one does: it drains its rings. A failure meanwhile is raised."""
    sessions.cancel()
    await asyncio.wait({sessions, supervisor.failure}, return_when=asyncio.FIRST_COMPLETED)
    if supervisor.failure.done():
        supervisor.failure.result()
    if not sessions.cancelled():
        sessions.result()
