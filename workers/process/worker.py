"""The worker process: a pump on one pair of rings."""

import logging
import os

import msgspec

from ringblk.shm.memory.guest_memory import GuestMemory
from ringblk.shm.state.segment import StateSegment
from ringblk.shm.sync.channel import Channel, ChannelClosed
from ringblk.shm.sync.process import crash_point
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.uring_form import UringForm
from ringblk.workers.process.host_errors import HostErrors
from ringblk.workers.process.messages import ChangeStorage, Stop, ToWorker
from ringblk.workers.process.pump import Pump
from ringblk.workers.process.regions import WorkerRegions
from ringblk.workers.process.storage_change import change_storage
from ringblk.workers.process.uring_pump import UringPump
from ringblk.workers.requests.drive_requests import DriveRequests
from ringblk.workers.requests.request import RequestExecutor
from ringblk.workers.sandbox.confinement import Confinement, report_refused
from ringblk.workers.uring.ring import Uring

_log = logging.getLogger(__name__)


class WorkerSetup(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker has from its start."""

    worker_index: int
    state: StateSegment
    backend: NativeBackend
    requests: DriveRequests
    own_eventfd: int
    dispatcher_eventfd: int
    uring: Uring | None
    """Where it is given, requests go through it."""
    confinement: Confinement
    ruleset_fd: int


def run_worker(setup: WorkerSetup, channel: Channel[ToWorker]) -> None:
    """Serve requests until told to stop; the body of a worker process."""
    who = f"worker {setup.worker_index}"
    setup.confinement.privileges.drop()
    setup.backend.start_worker()  # a user's own code may open and import here; it has seen no guest yet
    if setup.confinement.privileges.confines:
        setup.backend.confine_process()
    setup.confinement.confine(setup.ruleset_fd)
    memory = GuestMemory(setup.state)
    regions = WorkerRegions(memory)
    errors = HostErrors(who)
    try:
        executor = setup.requests.make_executor(setup.state, memory)
        pump = make_pump(setup, channel.socket.fileno(), memory, executor)
        while _read_channel(channel, regions, pump, setup.backend):
            if not pump.run():
                errors.report(executor.take_error()[0])
            report_refused(who)
    except ChannelClosed:
        _log.info("worker %d ends: the supervisor is gone", setup.worker_index)


def make_pump(setup: WorkerSetup, channel_fd: int, memory: GuestMemory, executor: RequestExecutor) -> Pump:
    """The loop that the worker is to run."""
    own, dispatcher = setup.own_eventfd, setup.dispatcher_eventfd
    if setup.uring is None or executor.outcome_fd >= 0:  # the plain one knows how to wait for two things
        return Pump(setup.state, setup.worker_index, memory, executor, own, dispatcher, channel_fd)
    form = UringForm(setup.uring, setup.backend, channel_fd)
    return UringPump(setup.state, setup.worker_index, memory, executor, own, dispatcher, channel_fd, form)


def _read_channel(
    channel: Channel[ToWorker], regions: WorkerRegions, pump: Pump, backend: NativeBackend
) -> bool:
    """Carry out all messages that wait; False when one says stop."""
    pump.take_control()
    waiting = list(iter(channel.receive, None))
    for message, fds in waiting:
        if isinstance(message, ChangeStorage):
            change_storage(backend, message, fds)
            crash_point("layers: in use by a worker")
    regions.take(waiting)
    for _, fds in waiting:
        for fd in fds:
            os.close(fd)
    return not any(isinstance(message, Stop) for message, _ in waiting)
