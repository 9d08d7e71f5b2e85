"""One engine from start to end."""

import asyncio

from ringblk.engine.devices.device_kind import DeviceKind
from ringblk.engine.devices.kinds import DEFAULT_KIND
from ringblk.engine.options.config import EngineConfig
from ringblk.engine.program.engine import Engine


def serve(config: EngineConfig, kind: DeviceKind = DEFAULT_KIND) -> int:
    """Run an engine until it is told to end; returns the exit status. Raises `ProgramError`."""
    engine = Engine(config, kind)
    try:
        engine.prepare()
        status = asyncio.run(engine.run())
    finally:
        is_closed = engine.close()
    return status if is_closed else 1
