"""The dispatcher process: the loop over all queues, and the messages that set it up.

Its state is in shared memory or with the supervisor. A successor is told everything again, then `Recover`,
and goes on.
"""

import logging
import os
import select
import signal

from ringblk.engine.devices.queue_fds import QueueFds
from ringblk.engine.dispatcher.control_line import ControlLine
from ringblk.engine.dispatcher.cpu_placement import CpuPlacement
from ringblk.engine.dispatcher.dispatch_loop import BROKEN, ERROR, LOST, UNHEARD, WISH, DispatchLoop
from ringblk.engine.dispatcher.dispatcher_setup import DispatcherSetup
from ringblk.engine.dispatcher.handover import Handover
from ringblk.engine.dispatcher.idle_poll import IdlePoll
from ringblk.engine.dispatcher.inline_gate import InlineGate
from ringblk.engine.dispatcher.messages import (
    Answer,
    AwaitLetGo,
    CallUnheard,
    ChangeRegions,
    EnableQueue,
    FlushStorage,
    FromDispatcher,
    MemoryLost,
    Pause,
    QueueBroken,
    Recover,
    RegionsUnused,
    RequestGivenUp,
    Resume,
    SetBackendChannel,
    SetInflight,
    SetLog,
    SetQueueFds,
    SetQueueLog,
    StartQueue,
    StopLog,
    StopQueue,
    ToDispatcher,
    WishAnswered,
    WorkerDown,
    WorkerRetire,
    WorkersWanted,
    WorkerUp,
)
from ringblk.engine.dispatcher.queue_table import QueueTable
from ringblk.engine.dispatcher.recovery import Recovery
from ringblk.engine.dispatcher.ring import DispatcherRing
from ringblk.engine.dispatcher.suspension import Suspension
from ringblk.engine.dispatcher.throttle import Throttle
from ringblk.shm.memory.dirty_log import DirtyLog
from ringblk.shm.memory.guard import INFLIGHT, LOG, GuardedPart
from ringblk.shm.memory.guest_memory import GuestMemory
from ringblk.shm.memory.region import RegionError
from ringblk.shm.platform.kernel_files import usable_cpus
from ringblk.shm.queues.errors import InflightError, RingError
from ringblk.shm.queues.inflight_region import queue_region_bytes
from ringblk.shm.queues.split.virtqueue import SplitVirtqueue
from ringblk.shm.sync.channel import Channel, ChannelClosed
from ringblk.shm.sync.process import crash_point
from ringblk.workers.backends.uring_form import UringForm
from ringblk.workers.process.host_errors import HostErrors
from ringblk.workers.process.messages import ChangeStorage, Stop
from ringblk.workers.process.storage_change import change_storage
from ringblk.workers.sandbox.confinement import report_refused

_log = logging.getLogger(__name__)


class _StopReceived(Exception):  # noqa: N818
    """Leaves the dispatcher's loop; nothing is in flight."""


class Dispatcher:
    """One dispatcher's life: messages in, the loop, answers out."""

    def __init__(self, setup: DispatcherSetup, channel: Channel[ToDispatcher]) -> None:
        self._setup = setup
        self._memory = GuestMemory(setup.state)
        self._executor = setup.requests.make_executor(setup.state, self._memory)
        self._table = QueueTable(setup.state, setup.own_eventfd)
        self._line = ControlLine(channel, setup.adoption, self._table)
        form = UringForm(setup.uring, setup.backend) if setup.uring is not None else None
        if form is not None:
            self._table.watch(form.ready_fd)
        if self._executor.outcome_fd >= 0:
            self._table.watch(self._executor.outcome_fd)
        self._handover = Handover(setup.state)
        self._loop = DispatchLoop(
            setup.state,
            self._memory,
            setup.requests.make_parser(setup.state, self._memory),
            self._executor,
            self._handover,
            self._table,
            Throttle(setup.state, setup.rate_limit, setup.is_rate_shared),
            InlineGate(setup.inline_limit_ns),
            DispatcherRing(setup.state, self._executor, form),
            IdlePoll(setup.poll_ns),
            CpuPlacement(usable_cpus()),
        )
        self._recovery = Recovery(self._loop)
        self._has_taken_over = False
        self._errors = HostErrors("dispatcher")
        self._inflight: GuardedPart | None = None
        self._inflight_queue_size = 0
        self._queue_fds: dict[int, QueueFds] = {}
        self._stopping: dict[int, list[int]] = {}  # queue_index -> request_ids
        self._retiring: dict[int, int] = {}  # worker_index -> request_id
        self._pausing: list[int] = []  # request_ids
        self._suspension = Suspension(self._loop)
        self._dropping: set[int] = set()  # indexes of regions that requests in flight may still use
        self._worker_eventfds: dict[int, int] = {}

    def run(self) -> None:
        """Serve until told to stop or the supervisor is gone."""
        # The supervisor's `nudge`: it only has to end the system call that it comes into.
        signal.signal(signal.SIGURG, lambda number, frame: None)
        try:
            while not self._has_taken_over:
                select.select(self._line.watched_fds(), [], [])
                self._read_channel()
            while True:
                self._read_channel()
                self._settle_waiting()
                waiting = (self._stopping, self._dropping, self._retiring, self._pausing)
                self._loop.reports_progress = any(waiting) or bool(self._suspension.waiting)
                event = self._loop.run()
                if event == BROKEN:
                    for queue_index, reason in self._loop.take_broken():
                        self._table.signal_error(queue_index)
                        self._send(QueueBroken(queue_index, reason))
                elif event == LOST:
                    self._send(MemoryLost(*self._loop.take_lost()))
                elif event == UNHEARD:
                    for queue_index in self._table.take_unheard():
                        self._send(CallUnheard(queue_index))
                elif event == WISH:
                    self._send(WorkersWanted(self._handover.take_wish()))
                    crash_point("workers: asked for")
                elif event == ERROR:
                    self._errors.report(self._executor.take_error()[0])
                report_refused("dispatcher")
        except ChannelClosed:
            _log.info("the dispatcher ends: the supervisor is gone")
        except _StopReceived:
            pass
        finally:
            self._line.close()

    def _send(self, message: FromDispatcher) -> None:
        self._line.send(message)

    def _read_channel(self) -> None:
        self._loop.take_control()
        self._line.flush()
        while (received := self._line.receive()) is not None:
            message, fds = received
            try:
                self._carry_out(message, fds)
            except (InflightError, RegionError, RingError, OSError, ValueError) as error:
                self._send(Answer(getattr(message, "request_id", 0), error=str(error)))
            finally:
                for fd in fds:
                    os.close(fd)

    def _carry_out(self, message: ToDispatcher, fds: list[int]) -> None:
        """One message. `fds` are closed afterwards but for those taken out of the list."""
        match message:
            case ChangeRegions():
                self._change_regions(message, fds)
            case SetInflight():
                self._set_inflight(message, fds[0])
                self._send(Answer(message.request_id))
            case StartQueue():
                self._start_queue(message, fds)
            case SetLog():
                self._set_log(message, fds[0])
                self._send(Answer(message.request_id))
            case StopLog():
                self._loop.set_log(None)
                self._loop.lost_memory.forget_part(LOG)
                self._send(Answer(message.request_id))
            case SetQueueLog():
                if (virtqueue := self._table.virtqueue(message.queue_index)) is not None:
                    virtqueue.log_at(message.log_gpa)
                self._send(Answer(message.request_id))
            case SetQueueFds():
                self._use_fds(message.queue_index, QueueFds.take(message.has_fds, fds), fds)
                self._send(Answer(message.request_id))
            case EnableQueue():
                self._table.set_enabled(message.queue_index, message.is_enabled)
                self._send(Answer(message.request_id))
            case FlushStorage():
                self._setup.backend.flush()
                self._send(Answer(message.request_id))
            case ChangeStorage():
                change_storage(self._setup.backend, message, fds)
                self._memory.skip(message.epoch)
                crash_point("layers: in use by the dispatcher")
                self._send(Answer(message.request_id))
            case SetBackendChannel():
                self._set_backend_channel(message, fds)
                self._send(Answer(message.request_id))
            case StopQueue():
                self._stop_queue(message)
            case AwaitLetGo():
                self._suspension.waiting.append(message.request_id)
            case WorkerRetire():
                self._retire_worker(message)
            case WishAnswered():
                self._handover.wish_answered(message.is_met)
            case Pause():
                self._loop.pause()
                if message.request_id:  # one of a set-up waits for nothing
                    self._pausing.append(message.request_id)
            case Resume():
                self._resume()
                self._send(Answer(message.request_id))
            case WorkerUp():
                self._worker_up(message.worker_index, fds)
            case WorkerDown():
                self._worker_down(message)
            case Recover():
                self._take_over(message)
            case Stop():
                raise _StopReceived

    def _change_regions(self, message: ChangeRegions, fds: list[int]) -> None:
        """What is done already is left out: after another process's death a message may come twice."""
        gone = [index for index in message.dropped_indexes if not self._memory.is_mapped(index)]
        for region_index in set(message.dropped_indexes) - set(gone):
            self._memory.remove(region_index)
            self._dropping.add(region_index)
        self._release_dropped()
        for added, fd in zip(message.added, fds, strict=True):
            if not self._memory.is_mapped(added.region_index):
                # The supervisor has mapped it: what cannot be mapped now was taken away meanwhile.
                self._memory.add(added.region_index, added.region, fd, added.epoch, or_lost=True)
        self._table.remap()
        self._send(Answer(message.request_id))
        if gone:
            self._send(RegionsUnused(gone))

    def _release_dropped(self) -> None:
        """Nobody who takes memory away waits for tokens."""
        self._loop.release_regions(sum(1 << region_index for region_index in self._dropping))

    def _set_inflight(self, message: SetInflight, fd: int) -> None:
        self._loop.lost_memory.forget_part(INFLIGHT)
        self._inflight = GuardedPart(
            self._setup.state,
            INFLIGHT,
            fd,
            message.mmap_size_bytes,
            message.mmap_offset_bytes,
            or_lost=not self._has_taken_over,
        )
        self._inflight_queue_size = message.queue_size

    def _set_log(self, message: SetLog, fd: int) -> None:
        self._loop.lost_memory.forget_part(LOG)
        mapping = GuardedPart(
            self._setup.state,
            LOG,
            fd,
            message.mmap_size_bytes,
            message.mmap_offset_bytes,
            or_lost=not self._has_taken_over,
        )
        self._loop.set_log(DirtyLog(mapping))

    def _start_queue(self, message: StartQueue, fds: list[int]) -> None:
        virtqueue = SplitVirtqueue(
            message.queue_index,
            message.queue_size,
            self._memory,
            message.desc_uva,
            message.avail_uva,
            message.used_uva,
            message.event_idx,
            self._setup.chain_limit,
        )
        stride_bytes = queue_region_bytes(self._inflight_queue_size)
        if self._inflight is None:
            raise InflightError("there is no in-flight region")
        if message.queue_size > self._inflight_queue_size:
            raise InflightError(
                f"queue {message.queue_index} has {message.queue_size} entries,"
                f" the in-flight region is for {self._inflight_queue_size}"
            )
        virtqueue.log_at(message.log_gpa)
        heads = virtqueue.resume(self._inflight, message.queue_index * stride_bytes, message.base)
        queue_fds = QueueFds.take(message.has_fds, fds)
        if self._has_taken_over:
            self._handover.take_slots()
        try:
            self._loop.add_queue(virtqueue, queue_fds, message.is_enabled)
        except OSError:
            fds.extend(queue_fds.present())
            raise
        self._queue_fds[message.queue_index] = queue_fds
        if self._has_taken_over:
            self._recovery.resubmit(message.queue_index)
        self._send(Answer(message.request_id, value=len(heads)))

    def _use_fds(self, queue_index: int, queue_fds: QueueFds, unused: list[int]) -> None:
        """Use these fds for a queue that is served; its former ones are `unused` from then on."""
        unused.extend(self._queue_fds.get(queue_index, QueueFds()).present())
        self._queue_fds[queue_index] = queue_fds
        self._table.set_fds(queue_index, queue_fds)

    def _resume(self) -> None:
        self._loop.resume()
        for request_id in self._pausing:
            self._send(Answer(request_id, error="resumed before all was done"))
        self._pausing.clear()

    def _worker_up(self, worker_index: int, fds: list[int]) -> None:
        eventfd = fds.pop()
        self._loop.worker_up(worker_index, eventfd)
        if worker_index in self._worker_eventfds:
            fds.append(self._worker_eventfds[worker_index])
        self._worker_eventfds[worker_index] = eventfd

    def _worker_down(self, message: WorkerDown) -> None:
        self._tell_given_up(self._recovery.worker_down(message.worker_index, message.own_fault))
        self._send(Answer(message.request_id))

    def _retire_worker(self, message: WorkerRetire) -> None:
        if message.if_idle and self._handover.held_count(message.worker_index):
            raise ValueError("it holds requests")
        self._handover.worker_retire(message.worker_index)
        self._retiring[message.worker_index] = message.request_id

    def _take_over(self, message: Recover) -> None:
        self._tell_given_up(self._recovery.take_over(message.own_fault))
        self._release_dropped()  # a predecessor had let them go; here they were throttled anew
        self._has_taken_over = True

    def _tell_given_up(self, slot_indexes: list[int]) -> None:
        for slot_index in slot_indexes:
            self._send(RequestGivenUp(self._recovery.describe_slot(slot_index)))

    def _set_backend_channel(self, message: SetBackendChannel, fds: list[int]) -> None:
        outcome_fd = self._executor.outcome_fd
        self._executor.set_backend_channel(fds.pop(), message.is_new, message.is_legacy)
        if self._executor.outcome_fd != outcome_fd:
            self._table.watch(self._executor.outcome_fd)

    def _stop_queue(self, message: StopQueue) -> None:
        if not self._table.is_served(message.queue_index):  # its start was refused
            self._send(Answer(message.request_id))
            return
        self._executor.hurry()
        self._stopping.setdefault(message.queue_index, []).append(message.request_id)
        if message.is_suspended:
            self._suspension.suspend(message.queue_index)
            self._remove_queue(message.queue_index)
        else:
            self._loop.drain_queue(message.queue_index)

    def _remove_queue(self, queue_index: int) -> None:
        next_avail = self._table.remove_queue(queue_index)
        for fd in self._queue_fds.pop(queue_index).present():
            os.close(fd)
        for request_id in self._stopping.pop(queue_index):
            self._send(Answer(request_id, value=next_avail))

    def _settle_waiting(self) -> None:
        """Answer for all that was waited for: queues drained, workers idle, regions unused."""
        for queue_index in list(self._stopping):
            if self._table.is_paused:  # nothing is begun: what an earlier engine left is for the next start
                self._loop.resubmissions.drop(queue_index)
            if self._loop.unfinished_count(queue_index) == 0:
                self._remove_queue(queue_index)
        for worker_index, request_id in list(self._retiring.items()):
            if self._handover.held_count(worker_index) == 0:
                del self._retiring[worker_index]
                self._send(Answer(request_id))
        for request_id in self._suspension.take_answerable():
            self._send(Answer(request_id))
        if self._pausing and not any(map(self._table.inflight_count, self._queue_fds)):
            for request_id in self._pausing:
                self._send(Answer(request_id))
            self._pausing.clear()
        if not self._dropping:
            return
        used_regions = self._loop.used_regions()
        unused = [index for index in self._dropping if not used_regions >> index & 1]
        for region_index in unused:
            self._dropping.remove(region_index)
            self._memory.unmap(region_index)
            self._loop.lost_memory.forget_region(region_index)
        if unused:
            self._send(RegionsUnused(unused))
