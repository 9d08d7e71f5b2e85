"""A drive's processes as the next control plane gets them from the dispatcher, should this one die."""

import os
import socket
from collections.abc import Iterator
from typing import Any

import msgspec

from ringblk.engine.devices.io_plan import IoPlan
from ringblk.engine.dispatcher.messages import PROCESSES_PART
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.engine.supervisor.child import Child
from ringblk.engine.supervisor.kept_parts import AdoptedParts, AdoptionFailed, KeptParts
from ringblk.engine.supervisor.process_parent import StartedProcess
from ringblk.engine.supervisor.process_setup import (
    DISPATCHER_ENTRIES,
    WORKER_ENTRIES,
    ProcessSetup,
    ring_layout,
)
from ringblk.engine.supervisor.zygote_process import Zygote
from ringblk.shm.platform.process import copy_fd_of
from ringblk.shm.sync.channel import Channel, encode_message
from ringblk.workers.backends.open_storage import OpenStorage
from ringblk.workers.uring.ring import Uring


class KeptProcess(msgspec.Struct, frozen=True):
    """A process of a drive. Numbers but for the pid's and the ring's are handles."""

    pid: int
    pidfd: int
    ring_fd: int
    """The descriptor that its io_uring has in the process itself; 0: it has none."""


class KeptWorker(msgspec.Struct, frozen=True):
    """A worker, with the supervisor's end of its channel."""

    process: KeptProcess
    channel: int
    eventfd: int


class KeptProcesses(msgspec.Struct, frozen=True, kw_only=True):
    """All of one drive, and what the drive was begun with."""

    name: str
    config: DriveConfig
    program_id: str
    """Of the program that the dispatcher is a process of."""
    storage: OpenStorage
    storage_fds: list[int]
    io: IoPlan
    segment: int
    eventfd: int
    """The dispatcher's."""
    listening: int
    """Where the dispatcher waits for the next control plane."""
    dispatcher: KeptProcess
    workers: dict[int, KeptWorker] = {}

    def handles(self) -> Iterator[int]:
        """All that are named here."""
        yield from (*self.storage_fds, self.segment, self.eventfd, self.listening, self.dispatcher.pidfd)
        for worker in self.workers.values():
            yield from (worker.process.pidfd, worker.channel, worker.eventfd)


class ProcessesKeeper:
    """Has the dispatcher keep the processes of its drive, after each change and before it matters."""

    def __init__(self, setup: ProcessSetup, parts: KeptParts, eventfd: int, listening: socket.socket) -> None:
        """`listening` is where the next control plane comes to, the keeper's from then on."""
        self._setup = setup
        self._parts = parts
        self._listening = listening
        self._own_fds = [setup.state.fileno(), eventfd, listening.fileno()]
        self._kept: KeptProcesses | None = None

    @property
    def listening_fd(self) -> int:
        """For the dispatcher."""
        return self._listening.fileno()

    @property
    def is_outdated(self) -> bool:
        """Whether the dispatcher is a process of a program before this one."""
        return self._kept is not None and self._kept.program_id != self._setup.program_id

    def close(self) -> None:
        """No control plane is to come any more."""
        self._listening.close()

    def resume(self, kept: KeptProcesses, adopted: AdoptedParts) -> None:
        """Go on from what a predecessor kept. Raises `AdoptionFailed` and `OSError`."""
        self._parts.resume(adopted, PROCESSES_PART, kept.handles())
        self._kept = kept

    def note_dispatcher(self, child: Child[Any]) -> None:
        """There is a dispatcher, or another."""
        # It is closed once this process has ended; the next dispatcher is told of none but its own.
        process = self._keep_process(child, is_lent=True)
        if self._kept is not None:
            program_id = self._setup.program_id
            self._keep(msgspec.structs.replace(self._kept, dispatcher=process, program_id=program_id))
            return
        storage, storage_fds = self._setup.backend.hand_over()
        storage_handles = self._parts.keep(PROCESSES_PART, storage_fds)
        # All three are there until nothing is kept any more (`DispatcherProcess.close`).
        segment, eventfd, listening = self._parts.keep(PROCESSES_PART, self._own_fds, are_lent=True)
        kept = KeptProcesses(
            name=self._setup.drive_name,
            config=self._setup.config,
            program_id=self._setup.program_id,
            storage=storage,
            storage_fds=storage_handles,
            io=self._setup.plan,
            segment=segment,
            eventfd=eventfd,
            listening=listening,
            dispatcher=process,
        )
        self._keep(kept)

    def note_storage(self) -> None:
        """The drive has other storage; its processes are told after this."""
        if self._kept is None:
            return
        storage, storage_fds = self._setup.backend.hand_over()
        handles = self._parts.keep(PROCESSES_PART, storage_fds)
        self._keep(msgspec.structs.replace(self._kept, storage=storage, storage_fds=handles))

    def note_worker(self, index: int, child: Child[None], eventfd: int) -> None:
        """There is a worker that has not been told anything yet: one that was not ends with this process."""
        assert self._kept is not None, "a dispatcher comes first"
        process = self._keep_process(child)
        channel, kept_eventfd = self._parts.keep(PROCESSES_PART, [child.channel.socket.fileno(), eventfd])
        worker = KeptWorker(process, channel, kept_eventfd)
        self._keep(msgspec.structs.replace(self._kept, workers={**self._kept.workers, index: worker}))

    def forget_worker(self, index: int) -> None:
        """Nothing is left of a worker."""
        if self._kept is not None and index in self._kept.workers:
            others = {other: worker for other, worker in self._kept.workers.items() if other != index}
            self._keep(msgspec.structs.replace(self._kept, workers=others))

    def _keep_process(self, child: Child[Any], *, is_lent: bool = False) -> KeptProcess:
        (pidfd,) = self._parts.keep(PROCESSES_PART, [child.pidfd], are_lent=is_lent)
        return KeptProcess(child.pid, pidfd, child.ring_fd)

    def _keep(self, kept: KeptProcesses) -> None:
        self._kept = kept
        self._parts.keep_state(PROCESSES_PART, encode_message(kept), kept.handles())


class AdoptedProcess(msgspec.Struct, frozen=True):
    """A process of a predecessor's, with the supervisor's end of its channel."""

    process: StartedProcess
    channel: Channel[Any]
    eventfd: int


class AdoptedProcesses(msgspec.Struct, frozen=True, kw_only=True):
    """A drive's processes that another control plane has started; all is of who goes on with them."""

    kept: KeptProcesses
    listening: socket.socket
    dispatcher: AdoptedProcess
    workers: dict[int, AdoptedProcess]

    @property
    def eventfd(self) -> int:
        """The dispatcher's."""
        return self.dispatcher.eventfd


def adopt_processes(kept: KeptProcesses, parts: AdoptedParts, zygote: Zygote) -> AdoptedProcesses:
    """Make them this process's. Raises `AdoptionFailed` and `OSError`."""
    dispatcher = AdoptedProcess(
        _adopt_process(kept.dispatcher, parts, zygote, DISPATCHER_ENTRIES),
        parts.channel,
        parts.take(kept.eventfd),
    )
    workers = {
        index: AdoptedProcess(
            _adopt_process(worker.process, parts, zygote, WORKER_ENTRIES),
            Channel(socket.socket(fileno=parts.take(worker.channel)), None, takes_fds=False),
            parts.take(worker.eventfd),
        )
        for index, worker in kept.workers.items()
    }
    listening = socket.socket(fileno=parts.take(kept.listening))
    return AdoptedProcesses(kept=kept, listening=listening, dispatcher=dispatcher, workers=workers)


def _adopt_process(
    process: KeptProcess, parts: AdoptedParts, zygote: Zygote, entry_count: int
) -> StartedProcess:
    """Raises `AdoptionFailed` for one whose io_uring cannot be had: nothing else fences it.

    That is of one that has died where no zygote has kept it.
    """
    pidfd = parts.take(process.pidfd)
    uring = None
    if process.ring_fd:
        try:
            ring_fd = zygote.sockets.take_ring(process.pid)
            if ring_fd is None:
                ring_fd = copy_fd_of(pidfd, process.ring_fd)
            uring = Uring.attach(ring_fd, ring_layout(entry_count))
        except OSError as error:
            os.close(pidfd)
            zygote.forget_ring(process.pid)
            raise AdoptionFailed(f"the io_uring of process {process.pid}: {error.strerror}") from error
    return zygote.adopt(process.pid, pidfd, uring, process.ring_fd)
