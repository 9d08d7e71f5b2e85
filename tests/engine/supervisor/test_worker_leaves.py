"""A worker that is to go: whoever waits for that hears of it, however it ends."""

import asyncio
from collections.abc import Callable
from typing import Any

from ringblk.engine.supervisor.worker_process import WorkerProcess

DEADLINE_S = 30.0


class LinkOfADyingWorker:
    """The dispatcher lets go of the worker only after that has died, and its work was given to others."""

    def __init__(self, worker: WorkerProcess) -> None:
        self._worker = worker

    async def ask(self, message: object, *, settle: Callable[[bool], None]) -> int:
        self._worker._child = None
        self._worker._leave()
        settle(True)
        return 0


def test_who_waits_for_a_worker_that_dies_instead_waits_once() -> None:
    worker: Any = WorkerProcess.__new__(WorkerProcess)
    worker._index, worker._left, worker.is_vacant, worker._is_released = 1, None, False, False
    worker._child, worker._note_vacancy = object(), lambda: None
    worker._link = LinkOfADyingWorker(worker)

    async def retire() -> None:
        await asyncio.wait_for(worker.retire(), DEADLINE_S)

    asyncio.run(retire())
    assert worker.is_vacant
    assert not worker._is_released
    assert worker._left is None
