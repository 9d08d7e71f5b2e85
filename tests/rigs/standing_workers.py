"""The engine's program with all its workers up from the start, for tests of what workers do.

Else workers come when there is work for them: a test would have to make some before it can look at a worker.
"""

import sys

from ringblk.engine.program.cli import backend_program
from ringblk.engine.supervisor.drive_processes import DriveProcesses
from ringblk.engine.supervisor.workforce import Workforce

PROGRAM = (sys.executable, "-P", __file__)  # not with the rigs among the modules


def _start(processes: DriveProcesses) -> None:
    _start_dispatcher(processes)
    workers = processes._workers
    while workers._missing_count > 0 and workers._start_one():
        pass


async def _set_limit(workers: Workforce, count: int) -> None:
    await _set_limit_only(workers, count)
    workers._start_missing()
    while workers._missing_count:
        await workers._wait_for_change()


_start_dispatcher, _set_limit_only = DriveProcesses.start, Workforce.set_limit

if __name__ == "__main__":
    Workforce._least_count = property(lambda workers: workers.limit)  # type: ignore[assignment, method-assign]
    DriveProcesses.start = _start  # type: ignore[assignment, method-assign]
    Workforce.set_limit = _set_limit  # type: ignore[assignment, method-assign]
    backend_program()
