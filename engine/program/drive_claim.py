"""Claiming drives: nobody else serves them, and what an engine before this one has left of them is found."""

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence

import msgspec

from ringblk.engine.base.in_thread import in_thread
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.drives.image_users import engines_on, is_engine
from ringblk.engine.drives.names import supervisor_of
from ringblk.engine.drives.plan import DrivePlan
from ringblk.engine.drives.record import (
    FoundRecord,
    find_predecessor,
    record_of_process,
    records_of_process,
    socket_digest,
)
from ringblk.engine.options.config import EngineConfig, of_drive
from ringblk.engine.program.image_claim import (
    LOOK_S,
    ImageClaim,
    claim_image,
    remove_dead_engines,
)
from ringblk.engine.program.takeover import (
    check_all_go_on,
    check_same_drive,
    check_takeover,
    take_over_socket,
)
from ringblk.shm.platform.process_table import user_ids

_log = logging.getLogger(__name__)


class _Predecessors(msgspec.Struct, frozen=True):
    """The engines that a drive is taken over from."""

    ending: list[int] = []
    trusted_users: set[int] = set()
    """Who ends an engine goes on with what it had."""
    unknown: list[int] = []
    """Those that have left no record: one that had one leaves none where there was nothing to say."""


_NOBODY = _Predecessors()


class Claims:
    """The claims of an engine that begins: first all are looked at and waited for, then each is made."""

    def __init__(self, config: EngineConfig, plans: Sequence[DrivePlan]) -> None:
        """Engines that are to be taken over from are told to end when nothing that can be refused is left.

        Raises `ProgramError`.
        """
        self._takes_over = config.takeover
        self._predecessors: Mapping[str, _Predecessors] = {}
        if config.takeover:
            self._predecessors = _look_at_predecessors(config, plans)
            for plan in plans:
                take_over_socket(plan.config.socket_path)
            if not config.is_sole:
                take_over_socket(config.control)

    def make(self, plan: DrivePlan) -> FoundRecord | None:
        """Be the only one on a drive; what the engine before has left of it. Raises `ProgramError`."""
        claim_image(plan.hold, takes_over=self._takes_over)
        return _find_if_held(plan, self._predecessors.get(plan.name, _NOBODY))


def remove_left(plans: Sequence[DrivePlan], *, is_again: bool = False) -> None:
    """Remove the shared memory of engines that were killed, now that these drives are claimed.

    `is_again`: this process may have been another program before, which has left its own: that is no news.
    """
    orphans = remove_dead_engines(*(plan.image or (0, 0) for plan in plans))
    if is_again:
        orphans = [name for name in orphans if supervisor_of(name) != os.getpid()]
    if orphans:
        _log.info("removed shared memory of engines that were killed: %s", ", ".join(orphans))


async def claim_drive(plan: DrivePlan) -> FoundRecord | None:
    """Be the only one on a drive that comes while others are served. Raises `ProgramError`."""
    claim = ImageClaim(plan.hold, takes_over=False)
    while not await _attempt(plan, claim):
        await asyncio.sleep(LOOK_S)
    return _find_if_held(plan)


async def _attempt(plan: DrivePlan, claim: ImageClaim) -> bool:
    """One whose layers are read and written for it may wait for their disk: the others don't."""
    return claim.attempt() if plan.backend.layered is None else await in_thread(claim.attempt)


def _look_at_predecessors(config: EngineConfig, plans: Sequence[DrivePlan]) -> dict[str, _Predecessors]:
    """Who is to end for each drive; nobody is told yet. Raises `ProgramError`."""
    users = {plan.name: engines_on(plan.image) for plan in plans if plan.image is not None}
    check_takeover(config, {pid for pids in users.values() for pid in pids})
    found = {}
    for plan in plans:
        try:
            at_socket = check_same_drive(
                plan.config,
                plan.identity,
                plan.image,
                is_read_only=plan.is_read_only,
                may_replace=config.replace_image,
            )
        except ProgramError as error:
            raise of_drive(plan.name, error) from error
        ending = [pid for pid in {*users.get(plan.name, ()), at_socket} if pid is not None and is_engine(pid)]
        trusted = {uid for pid in ending for uid in user_ids(pid)}
        unknown = [pid for pid in ending if not records_of_process(pid, trusted)]
        found[plan.name] = _Predecessors(ending, trusted, unknown)
    check_all_go_on(
        {pid for each in found.values() for pid in each.ending},
        [plan.identity for plan in plans],
        {digest for plan in plans if (digest := socket_digest(plan.config)) is not None},
    )
    return found


def _find_if_held(plan: DrivePlan, predecessors: _Predecessors = _NOBODY) -> FoundRecord | None:
    """The same of a drive that was claimed; nothing counts where another engine has its image."""
    return find_record(plan, predecessors) if plan.hold.is_held else None


def find_record(plan: DrivePlan, predecessors: _Predecessors = _NOBODY) -> FoundRecord | None:
    """What was left of a drive by the engine before."""
    trusted = set(predecessors.trusted_users)
    if plan.user is not None:
        trusted.add(plan.user.uid)
    found = find_predecessor(
        plan.config, plan.identity, is_read_only=plan.is_read_only, trusted_users=trusted
    )
    if found is None and plan.options.replace_image and predecessors.ending:
        found = record_of_process(predecessors.ending[0], trusted, config=plan.config)
    if found is None and predecessors.unknown:
        _log.warning(
            "the engine before this one (process %d) has left no record: what was set while it ran is lost",
            predecessors.unknown[0],
        )
    return found
