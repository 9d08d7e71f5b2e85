"""Claiming a drive: nobody else serves it, and what an engine before this one has left of it is found."""

import logging

from ringblk.engine.drives.image_users import engines_on, is_engine
from ringblk.engine.drives.plan import DrivePlan
from ringblk.engine.drives.record import FoundRecord, find_predecessor, record_of_process
from ringblk.engine.drives.segments import user_ids
from ringblk.engine.program.image_claim import claim_image, remove_dead_engines
from ringblk.engine.program.takeover import check_same_drive, check_takeover, take_over_socket

_log = logging.getLogger(__name__)


def claim_drive(plan: DrivePlan) -> FoundRecord | None:
    """Be the only one on this drive; what the engine before has left of it. Raises `ProgramError`.

    An engine that is to be taken over from is told to end when nothing that can be refused is left.
    """
    config = plan.config
    storage = plan.backend.identity()
    image = storage.subject if storage is not None else None
    is_read_only = plan.is_read_only
    ending: list[int] = []
    unknown: list[int] = []
    trusted = {plan.user.uid} if plan.user is not None else set()
    if config.takeover:
        ending = engines_on(image) if image is not None else []
        check_takeover(config, ending)
        at_socket = check_same_drive(config, plan.identity, image, is_read_only=is_read_only)
        ending = [pid for pid in {*ending, at_socket} if pid is not None and is_engine(pid)]
        trusted |= {uid for pid in ending for uid in user_ids(pid)}  # who ends one goes on with what it had
        unknown = [pid for pid in ending if record_of_process(pid, trusted) is None]
        take_over_socket(config.socket_path)
    name = config.blk_file or config.drive_name  # a backend of a user's own may be a file, too
    claim_image(name, plan.backend, takes_over=config.takeover)
    found = find_predecessor(config, plan.identity, is_read_only=is_read_only, trusted_users=trusted)
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
