"""One engine from start to end."""

import asyncio

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.service_manager import ServiceManager
from ringblk.engine.devices.device_kind import DeviceKind
from ringblk.engine.devices.kinds import DEFAULT_KIND
from ringblk.engine.options.config import EngineConfig
from ringblk.engine.program.engine import Engine
from ringblk.engine.supervisor.zygote_process import Zygote
from ringblk.engine.zygote.zygote import ZygoteEnd


def serve(
    config: EngineConfig,
    kind: DeviceKind = DEFAULT_KIND,
    manager: ServiceManager | None = None,
    zygote_end: ZygoteEnd | None = None,
) -> int:
    """Run an engine until it is told to end; returns the exit status. Raises `ProgramError`.

    `manager` is whom to tell how things are going. `zygote_end` is of a zygote that was forked before asyncio
    was imported, if one was.
    """
    zygote = Zygote(zygote_end)
    try:
        return _serve(config, kind, zygote, manager or ServiceManager(None))
    finally:
        zygote.close()


def _serve(config: EngineConfig, kind: DeviceKind, zygote: Zygote, manager: ServiceManager) -> int:
    engine = Engine(config, kind, zygote, manager)
    try:
        engine.prepare()
        status = asyncio.run(engine.run())
    finally:
        is_closed = engine.close()
    return status if is_closed else ExitStatus.FAILED
