"""A drive is made of its plan: its segment, its limits, its record."""

import contextlib
from functools import partial

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.drives.adopted_drive import AdoptedDrive
from ringblk.engine.drives.drive import Drive
from ringblk.engine.drives.engine_name import engine_name
from ringblk.engine.drives.limits import open_limits
from ringblk.engine.drives.plan import DrivePlan
from ringblk.engine.drives.record import FoundRecord
from ringblk.engine.drives.running_settings import RunningSettings
from ringblk.engine.drives.segments import create_segment
from ringblk.engine.drives.taken_settings import take_settings
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.engine.options.drive_names import SOLE_DRIVE
from ringblk.engine.supervisor.own_forks import OwnForks
from ringblk.engine.supervisor.process_setup import ProcessSetup
from ringblk.engine.supervisor.zygote_process import Zygote
from ringblk.shm.platform.process import HAS_ZYGOTE
from ringblk.shm.segments.segment import SegmentError
from ringblk.shm.state.segment import StateSegment
from ringblk.shm.sync.process import crash_point
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.native import NativeBackend

MAX_SLOTS = 8192
"""Requests in flight at once in one drive; what is offered beyond waits in its ring."""
MAX_RANGES = 1 << 21
"""Pieces of guest memory that all slots together can name; bounds the segment at 32 MiB and a little."""


def make_drive(
    plan: DrivePlan, found: FoundRecord | None, zygote: Zygote, adopted: AdoptedDrive | None
) -> Drive:
    """Make a drive that is claimed, with what the engine before has left of it. Raises `ProgramError`.

    `adopted` is one that runs. The zygote forks its processes, unless there is none here, or its storage can
    only be inherited.

    Should that fail, or the start of its processes, what was found waits for the next attempt.
    """
    with contextlib.ExitStack() as undo:
        state = _make_segment(plan) if adopted is None else adopted.state
        undo.callback(state.close)
        settings = RunningSettings()
        if found is not None:
            settings = take_settings(plan, found)
        users = [plan.user.uid] if plan.user is not None else []
        limits = open_limits(plan, state, settings.limits, users, is_adopted=adopted is not None)
        undo.callback(partial(limits.leave, goes_on=found is not None))
        is_only_inherited = _is_only_inherited(plan.backend)
        own_forks = OwnForks(
            plan.backend,
            plan.storage_fds if is_only_inherited else (),
            inherits_storage=is_only_inherited,
        )
        is_own = not HAS_ZYGOTE or is_only_inherited
        is_kept = plan.name != SOLE_DRIVE and not is_own
        setup = ProcessSetup(
            drive_name=plan.name,
            config=plan.config,
            backend=plan.backend,
            kind=plan.kind,
            state=state,
            rate_group_fd=None if limits.group is None else limits.group.fileno(),
            sandbox=plan.sandbox,
            plan=plan.io,
            cgroup=plan.cgroup,
            parent=own_forks if is_own else zygote,
            own_forks=own_forks,
            program_id="" if zygote.restart is None else zygote.restart.program_id,
            is_kept=is_kept,
            custodian=zygote if is_kept and zygote.restart is not None else None,
        )
        drive = Drive(plan, setup, limits, settings, goes_on=found is not None, adopted=adopted)
        undo.pop_all()
    try:
        _hand_over_files(plan, drive)
        if found is not None:
            crash_point("record: former one about to be removed")
            found.remove()
            crash_point("record: former one removed")
    except BaseException:
        drive.close()
        raise
    if adopted is None:  # else its queues may run, or what they had under way
        plan.hold.begin()
    return drive


def _is_only_inherited(backend: NativeBackend) -> bool:
    try:
        backend.hand_over()
    except BackendError:
        return True
    return False


def _make_segment(plan: DrivePlan) -> StateSegment:
    try:
        state = create_segment(plan.name, slot_count(plan.config), plan.config.queue_size, plan.kind)
    except SegmentError as error:
        raise ProgramError(str(error), ExitStatus.FAILED) from error
    sole_socket = plan.config.socket_path if plan.name == SOLE_DRIVE else None
    state.set_engine_name(engine_name(plan.options.control, sole_socket))
    if plan.image is not None:
        state.set_image(*plan.image)
    return state


def slot_count(config: DriveConfig) -> int:
    """Request slots: enough for all queues up to a limit, fewer where each must hold a very long chain."""
    wanted = min(MAX_SLOTS, config.queue_size * config.virtqueue_count, MAX_RANGES // config.queue_size)
    return 1 << max(6, (wanted - 1).bit_length())


def _hand_over_files(plan: DrivePlan, drive: Drive) -> None:
    """The user whom the engine goes on as is to remove in the end what was made for it."""
    if plan.user is None or plan.name != SOLE_DRIVE:  # an engine with a list stays who it is
        return
    plan.user.own(drive.state.fileno())
    if drive.limits.group is not None and drive.limits.group.is_creator:
        plan.user.own(drive.limits.group.fileno())
    plan.user.own(drive.publication.fileno())
