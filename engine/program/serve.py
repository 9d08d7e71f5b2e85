"""One engine from start to end."""

import asyncio

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.service_manager import ServiceManager
from ringblk.engine.options.config import EngineConfig
from ringblk.engine.program.engine import Engine
from ringblk.engine.supervisor.zygote_process import Zygote
from ringblk.engine.zygote.restart import Restart
from ringblk.engine.zygote.zygote import ZygoteEnd


def serve(
    config: EngineConfig,
    manager: ServiceManager | None = None,
    zygote_end: ZygoteEnd | None = None,
    restart: Restart | None = None,
    *,
    is_again: bool = False,
) -> int:
    """Run an engine until it is told to end; returns the exit status. Raises `ProgramError`.

    `manager` is whom to tell how things are going. `zygote_end` is of a zygote that was forked before asyncio
    was imported, if one was. With `restart` this process is started again if it dies; `is_again`: it was.
    """
    zygote = Zygote(zygote_end, restart, manager)
    try:
        return _run(Engine(config, zygote, manager or ServiceManager(None), is_again=is_again))
    finally:
        zygote.close()


def _run(engine: Engine) -> int:
    try:
        engine.prepare()
        status = asyncio.run(engine.run())
    finally:
        is_closed = engine.close()
    return status if is_closed else ExitStatus.FAILED
