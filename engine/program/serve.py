"""One engine from start to end."""

import asyncio

from ringblk.engine.base.open_files import reserve_open_files
from ringblk.engine.devices.device_kind import DeviceKind
from ringblk.engine.devices.kinds import DEFAULT_KIND
from ringblk.engine.drives.making import make_drive
from ringblk.engine.drives.plan import plan_drive
from ringblk.engine.drives.sandbox_plan import plan_user
from ringblk.engine.drives.storage import close_storage, open_storage
from ringblk.engine.images.served_format import check_served_format
from ringblk.engine.options.config import EngineConfig
from ringblk.engine.program.drive_claim import claim_drive
from ringblk.engine.program.engine import Engine, hold_end_signals


def serve(config: EngineConfig, kind: DeviceKind = DEFAULT_KIND) -> int:
    """Run an engine until it is told to end; returns the exit status. Raises `ProgramError`."""
    user = plan_user(config)
    reserve_open_files(config.workers, config.num_queues)
    storage = open_storage(config)
    try:
        check_served_format(config, storage)
        plan = plan_drive(config, kind, storage, user)
        found = claim_drive(plan)
        hold_end_signals()  # one that came now would leave the segment behind
        drive = make_drive(plan, found)
        try:
            status = asyncio.run(Engine(config, [drive], plan.sandbox).run())
        finally:
            drive.close()
    finally:
        is_closed = close_storage(storage)
    return status if is_closed else 1
