"""All workers of one drive: as many as there are to be."""

import asyncio
from collections.abc import Callable

from ringblk.engine.supervisor.child import Child
from ringblk.engine.supervisor.dispatcher_link import DispatcherLink
from ringblk.engine.supervisor.drive_model import DriveModel, Sent
from ringblk.engine.supervisor.process_setup import ProcessSetup
from ringblk.engine.supervisor.worker_process import WorkerProcess
from ringblk.workers.process.messages import ToWorker


class WorkersMissing(Exception):  # noqa: N818
    """The host starts no more workers; the text says how many there are now. Give it what it lacks."""


class Workforce:
    """The workers by index. Each goes on by itself, whoever dies; their number is set here."""

    def __init__(
        self,
        setup: ProcessSetup,
        model: DriveModel,
        link: DispatcherLink,
        fail: Callable[[str], None],
        wanted_count: int,
    ) -> None:
        """`fail` is called with the reason when a worker cannot be replaced."""
        self._setup = setup
        self._model = model
        self._link = link
        self._fail = fail
        self._workers: dict[int, WorkerProcess] = {}
        self._count_lock = asyncio.Lock()
        self.wanted_count = wanted_count
        """Workers that there are to be: those with indexes below it."""

    @property
    def children(self) -> dict[int, Child[None]]:
        """The processes that there are now, by worker index."""
        return {index: worker.child for index, worker in self._workers.items() if worker.child is not None}

    def start(self) -> None:
        """Start as many as there are to be, before there is a dispatcher. Raises `OSError`.

        They are forked one right after the other: what the supervisor writes to between two forks, each
        of them has a copy of its own of.
        """
        for worker_index in range(self.wanted_count):
            self._at(worker_index).fork()
        for worker_index in range(self.wanted_count):
            self._at(worker_index).introduce()

    async def set_count(self, count: int) -> None:
        """Have so many; returns when new ones are started and others have ended. Raises `WorkersMissing`."""
        async with self._count_lock:
            for worker_index in range(self.wanted_count, count):
                try:
                    self._at(worker_index).start()
                except OSError as error:
                    reason = error.strerror or error
                    raise WorkersMissing(
                        f"only {worker_index} of {count} workers could be started: {reason}"
                    ) from error
                self.wanted_count = worker_index + 1
            leaving = range(count, self.wanted_count)
            self.wanted_count = count
            await asyncio.gather(*(self._at(worker_index).retire() for worker_index in leaving))

    def _at(self, worker_index: int) -> WorkerProcess:
        """The worker of this index, whose rings and counters stay its own from one process to the next."""
        if worker_index not in self._workers:
            self._workers[worker_index] = WorkerProcess(
                worker_index, self._setup, self._model, self._link, self._fail
            )
        return self._workers[worker_index]

    def up_messages(self) -> Sent:
        """What a new dispatcher is told of the workers that are up."""
        return [worker.up_message() for worker in self._workers.values() if worker.is_up]

    def tell(self, message: ToWorker, fds: tuple[int, ...] = ()) -> None:
        """Send to every worker; one that hangs in a system call reads it later."""
        for worker in self._workers.values():
            worker.tell(message, fds)

    @property
    def have_room(self) -> bool:
        """Whether all have read most of what they were told."""
        return all(worker.has_room for worker in self._workers.values())

    def stop(self) -> None:
        """Ask every worker to end; nothing is in flight."""
        for worker in self._workers.values():
            worker.stop()

    def kill(self) -> None:
        """End every worker at once."""
        for worker in self._workers.values():
            worker.kill()

    def close(self) -> None:
        """Close what is left when all have ended."""
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()
