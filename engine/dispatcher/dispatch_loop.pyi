from ringblk.engine.devices.queue_fds import QueueFds
from ringblk.engine.dispatcher.cpu_placement import CpuPlacement
from ringblk.engine.dispatcher.handover import Handover
from ringblk.engine.dispatcher.idle_poll import IdlePoll
from ringblk.engine.dispatcher.inline_gate import InlineGate
from ringblk.engine.dispatcher.lost_memory import LostMemory
from ringblk.engine.dispatcher.overlap_list import OverlapList
from ringblk.engine.dispatcher.queue_table import QueueTable
from ringblk.engine.dispatcher.resubmission_list import ResubmissionList
from ringblk.engine.dispatcher.ring import DispatcherRing
from ringblk.engine.dispatcher.throttle import Throttle
from ringblk.shm.memory.dirty_log import DirtyLog
from ringblk.shm.memory.guest_memory import GuestMemory
from ringblk.shm.queues.virtqueue import Virtqueue
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.requests.request import RequestExecutor, RequestParser

CONTROL: int
PROGRESS: int
BROKEN: int
ERROR: int
LOST: int
UNHEARD: int
WISH: int

class DispatchLoop:
    reports_progress: bool
    @property
    def handover(self) -> Handover: ...
    @property
    def overlaps(self) -> OverlapList: ...
    @property
    def resubmissions(self) -> ResubmissionList: ...
    @property
    def lost_memory(self) -> LostMemory: ...
    @property
    def table(self) -> QueueTable: ...
    def __init__(
        self,
        state: StateSegment,
        memory: GuestMemory,
        parser: RequestParser,
        executor: RequestExecutor,
        handover: Handover,
        table: QueueTable,
        throttle: Throttle,
        gate: InlineGate,
        ring: DispatcherRing,
        idle_poll: IdlePoll,
        placement: CpuPlacement,
    ) -> None: ...
    def add_queue(
        self,
        virtqueue: Virtqueue,
        fds: QueueFds,
        is_enabled: bool,
    ) -> None: ...
    def drain_queue(self, queue_index: int) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def set_log(self, log: DirtyLog | None) -> None: ...
    def release_regions(self, region_mask: int) -> None: ...
    def unfinished_count(self, queue_index: int) -> int: ...
    def used_regions(self) -> int: ...
    def worker_up(self, worker_index: int, eventfd: int) -> None: ...
    def run(self) -> int: ...
    def take_control(self) -> None: ...
    def take_broken(self) -> list[tuple[int, int]]: ...
    def take_lost(self) -> tuple[list[int], int]: ...
