"""One engine from start to end."""

import asyncio

from ringblk.engine.base.service_manager import ServiceManager
from ringblk.engine.devices.device_kind import DeviceKind
from ringblk.engine.devices.kinds import DEFAULT_KIND
from ringblk.engine.options.config import EngineConfig
from ringblk.engine.program.engine import Engine


def serve(
    config: EngineConfig, kind: DeviceKind = DEFAULT_KIND, manager: ServiceManager | None = None
) -> int:
    """Run an engine until it is told to end; returns the exit status. Raises `ProgramError`.

    `manager` is whom to tell how things are going.
    """
    engine = Engine(config, kind, manager or ServiceManager(None))
    try:
        engine.prepare()
        status = asyncio.run(engine.run())
    finally:
        is_closed = engine.close()
    return status if is_closed else 1
