"""All workers of one drive: none at rest, and up to a limit while there is work for them."""

import asyncio
import logging
from collections.abc import Callable

from ringblk.engine.dispatcher.messages import WishAnswered
from ringblk.engine.supervisor.child import Child
from ringblk.engine.supervisor.dispatcher_process import DispatcherProcess
from ringblk.engine.supervisor.drive_model import DriveModel, Sent
from ringblk.engine.supervisor.kept_processes import AdoptedProcess
from ringblk.engine.supervisor.process_setup import ProcessSetup
from ringblk.engine.supervisor.worker_process import WorkerProcess
from ringblk.shm.sync.process import crash_point
from ringblk.workers.process.messages import ToWorker

WORKER_IDLE_S = 5.0
"""A worker that has done nothing for so long ends; it may take twice that until it is noticed."""
RETRY_S = 1.0
"""How long after the host has refused a process it is asked for one again."""

_log = logging.getLogger(__name__)


class Workforce:
    """The workers by index. They are started when the dispatcher wants them, and retired when they are idle.

    A dispatcher that has asked for workers (`want`) hears of each (`WorkerUp`), and then that these were all,
    or that there can be no more now (`WishAnswered`): then they follow as soon as they can be had.
    """

    def __init__(
        self,
        setup: ProcessSetup,
        model: DriveModel,
        dispatcher: DispatcherProcess,
        fail: Callable[[str], None],
        limit: int,
    ) -> None:
        """`fail` is called with the reason when a worker cannot be replaced."""
        self._setup = setup
        self._model = model
        self._link = dispatcher.link
        self._keeper = dispatcher.keeper
        self._fail = fail
        self._workers: dict[int, WorkerProcess] = {}
        self._limit_lock = asyncio.Lock()
        self._wanted_count = 0
        self._is_asked = False  # whether a dispatcher waits for an answer
        self._is_refused = False  # whether the host has not let the last one start
        self._has_changed = asyncio.Event()
        self._starting: asyncio.Task[None] | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._look_timer: asyncio.TimerHandle | None = None
        self._is_ending = False
        self.limit = limit
        """Workers that the drive may have."""
        setup.state.set_worker_limit(self._most_count)

    @property
    def children(self) -> dict[int, Child[None]]:
        """The processes that there are now, by worker index."""
        return {index: worker.child for index, worker in self._workers.items() if worker.child is not None}

    def adopt(self, worker_index: int, adopted: AdoptedProcess) -> None:
        """Go on with a worker that another control plane has started."""
        child: Child[None] = Child(f"rb-worker-{worker_index}", adopted.process, adopted.channel)
        self._at(worker_index, adopted.eventfd).adopt(child)
        self._look_later()

    # Coming

    def want(self, count: int) -> None:
        """A dispatcher has requests for so many workers."""
        crash_point("workers: wanted")
        self._wanted_count = count
        self._is_asked = True
        self._has_changed.set()
        self._start_missing()

    def note_queues(self) -> None:
        """A queue starts."""
        if self._least_count:
            self._start_missing()

    @property
    def _most_count(self) -> int:
        """Workers that there may be: those with indexes below it."""
        most_count = self._setup.backend.worker_limit
        return self.limit if most_count is None else min(self.limit, most_count)

    @property
    def _least_count(self) -> int:
        """Workers that the backend wants to be there whatever there is to do."""
        return min(self._most_count, 1) if self._setup.backend.keeps_worker and self._model.queues else 0

    @property
    def _missing_count(self) -> int:
        wanted_count = min(max(self._wanted_count, self._least_count), self._most_count)
        return wanted_count - sum(worker.is_up for worker in self._workers.values())

    def _start_missing(self) -> None:
        if (self._starting is None or self._starting.done()) and not self._is_ending:
            self._starting = asyncio.get_running_loop().create_task(self._start_all())

    async def _start_all(self) -> None:
        """Start workers until as many are up as are wanted."""
        while self._missing_count > 0 and not self._is_ending:
            if not self._start_one():
                self._answer(is_met=False)
                await self._wait_for_change()
        self._wanted_count = 0
        self._answer(is_met=True)

    def _start_one(self) -> bool:
        """Start a worker in a vacant place; False: there is none now, or the host refuses."""
        vacant = (index for index in range(self._most_count) if self._is_vacant(index))
        if (worker_index := next(vacant, None)) is None:
            return False
        try:
            self._at(worker_index).start()
        except OSError as error:
            if not self._is_refused:
                _log.error(
                    "worker %d cannot be started: %s; trying again every second",
                    worker_index,
                    error.strerror or error,
                )
            self._is_refused = True
            return False
        self._is_refused = False
        crash_point("workers: started")
        self._look_later()
        return True

    def _is_vacant(self, worker_index: int) -> bool:
        return worker_index not in self._workers or self._workers[worker_index].is_vacant

    def _answer(self, *, is_met: bool) -> None:
        if self._is_asked:
            self._is_asked = False
            self._link.tell(WishAnswered(is_met))
            crash_point("workers: answered")

    async def _wait_for_change(self) -> None:
        """Wait until a place has become vacant or is up, or the host may have what it lacked."""
        self._has_changed.clear()
        try:
            await asyncio.wait_for(self._has_changed.wait(), RETRY_S)
        except TimeoutError:
            return

    def _at(self, worker_index: int, eventfd: int | None = None) -> WorkerProcess:
        """The worker of this index, whose rings and counters stay its own from one process to the next."""
        if worker_index not in self._workers:
            self._workers[worker_index] = WorkerProcess(
                worker_index,
                self._setup,
                self._model,
                self._link,
                self._fail,
                self._note_vacancy,
                self._keeper,
                eventfd,
            )
        return self._workers[worker_index]

    def _note_vacancy(self) -> None:
        self._has_changed.set()
        if self._least_count:
            self._start_missing()

    # Going

    def _look_later(self) -> None:
        if self._look_timer is None:
            self._look_timer = asyncio.get_running_loop().call_later(WORKER_IDLE_S, self._look)

    def _look(self) -> None:
        """Retire those that have been idle since the last look, and look again as long as any is up."""
        self._look_timer = None
        up = [self._workers[index] for index in sorted(self._workers) if self._workers[index].is_up]
        idle = [worker for worker in up if worker.has_been_idle()]
        leaving_count = min(len(idle), max(0, len(up) - self._least_count))
        for worker in idle[len(idle) - leaving_count :]:
            task = asyncio.get_running_loop().create_task(worker.retire_if_idle())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
        if up:
            self._look_later()

    async def set_limit(self, count: int) -> None:
        """Have at most so many; returns when others have ended."""
        async with self._limit_lock:
            self.limit = count
            self._setup.state.set_worker_limit(self._most_count)
            leaving = [worker for index, worker in self._workers.items() if index >= count]
            await asyncio.gather(*(worker.retire() for worker in leaving))

    async def renew(self) -> None:
        """Have all that there are finish what they hold and end; others come when there is work for them."""
        async with self._limit_lock:
            await asyncio.gather(*(worker.retire() for worker in self._workers.values()))

    # Messages

    def up_messages(self) -> Sent:
        """What a new dispatcher is told of the workers that are up."""
        return [worker.up_message() for worker in self._workers.values() if worker.is_up]

    def up(self) -> list[WorkerProcess]:
        """Those that there are now."""
        return [worker for worker in self._workers.values() if worker.child is not None]

    def tell(self, message: ToWorker, fds: tuple[int, ...] = ()) -> None:
        """Send to every worker; one that hangs in a system call reads it later."""
        for worker in self._workers.values():
            worker.tell(message, fds)

    @property
    def have_room(self) -> bool:
        """Whether all have read most of what they were told."""
        return all(worker.has_room for worker in self._workers.values())

    # End

    def stop(self) -> None:
        """Ask every worker to end; nothing is in flight."""
        self._end()
        for worker in self._workers.values():
            worker.stop()

    def kill(self) -> None:
        """End every worker at once."""
        self._end()
        for worker in self._workers.values():
            worker.kill()

    def _end(self) -> None:
        """Nobody comes or goes any more."""
        self._is_ending = True
        if self._look_timer is not None:
            self._look_timer.cancel()
        for task in (self._starting, *self._retiring):
            if task is not None:
                task.cancel()

    def close(self) -> None:
        """Close what is left when all have ended."""
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()
