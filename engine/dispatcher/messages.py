"""What the supervisor tells the dispatcher, and what it hears from it."""

import msgspec

from ringblk.workers.process.messages import ChangeStorage, MapRegion, Stop

SESSION_REQUESTS = 1 << 62
"""Requests that a session makes have ids from here on.

Whoever carries out the session's message in hand once more gives the same requests the same ids, so one whose
id has been seen is not carried out again: it is answered as it was before (`ControlLine`).
"""


SESSION_PART = "session"
"""The part of the custody that a dispatcher outlives its control plane for; `PROCESSES_PART` is the other."""
PROCESSES_PART = "processes"


class ChangeRegions(msgspec.Struct, tag=True, frozen=True):
    """Drop regions from the table and map others, whose fds come along, with no request in between.

    Answered when it is done; those that were dropped follow in `RegionsUnused`.
    """

    request_id: int
    dropped_indexes: list[int]
    added: list[MapRegion]


class SetInflight(msgspec.Struct, tag=True, frozen=True):
    """Keep in-flight records in this region, whose fd comes along; queue i's part at i times the stride."""

    request_id: int
    mmap_size_bytes: int
    mmap_offset_bytes: int
    queue_size: int


class StartQueue(msgspec.Struct, tag=True, frozen=True):
    """Serve a queue. Its kick, call and err fds come along, in this order, where it has them."""

    request_id: int
    queue_index: int
    queue_size: int
    desc_uva: int
    avail_uva: int
    used_uva: int
    base: int
    event_idx: bool
    is_enabled: bool
    has_fds: tuple[bool, bool, bool]
    log_gpa: int | None = None
    """Where writes to its used ring are marked in the dirty log; None: nowhere."""


class SetQueueFds(msgspec.Struct, tag=True, frozen=True):
    """Use these fds from now on, which come along as with `StartQueue`."""

    request_id: int
    queue_index: int
    has_fds: tuple[bool, bool, bool]


class EnableQueue(msgspec.Struct, tag=True, frozen=True):
    """Pop from a queue, or let it rest."""

    request_id: int
    queue_index: int
    is_enabled: bool


class SetLog(msgspec.Struct, tag=True, frozen=True):
    """Mark guest pages that are written from now on in this dirty log, whose fd comes along."""

    request_id: int
    mmap_size_bytes: int
    mmap_offset_bytes: int


class StopLog(msgspec.Struct, tag=True, frozen=True):
    """Mark no more pages, and let go of the log."""

    request_id: int


class SetQueueLog(msgspec.Struct, tag=True, frozen=True):
    """Mark writes to the queue's used ring at this guest physical address from now on, or nowhere."""

    request_id: int
    queue_index: int
    log_gpa: int | None


class SetBackendChannel(msgspec.Struct, tag=True, frozen=True):
    """Have the front end map files on this channel, which comes along. `is_new`: it has mapped none yet."""

    request_id: int
    is_new: bool = False
    is_legacy: bool = False
    """Of a new one: whether it knows FS_MAP and FS_UNMAP alone."""


class StopQueue(msgspec.Struct, tag=True, frozen=True):
    """Stop popping; answered with next_avail when nothing of the queue is in flight.

    `is_suspended`: at once, and what is in flight is another back end's to do.
    """

    request_id: int
    queue_index: int
    is_suspended: bool = False


class AwaitLetGo(msgspec.Struct, tag=True, frozen=True):
    """Answered when nothing is under way any more of queues that were stopped so."""

    request_id: int


class FlushStorage(msgspec.Struct, tag=True, frozen=True):
    """Bring all that was written to stable storage; nothing is in flight."""

    request_id: int


class Sync(msgspec.Struct, tag=True, frozen=True):
    """Answer: all that was told before is carried out, or begun."""

    request_id: int


class WorkerUp(msgspec.Struct, tag=True, frozen=True):
    """A worker serves these rings; its eventfd comes along."""

    worker_index: int


class WorkerDown(msgspec.Struct, tag=True, frozen=True):
    """A worker was reaped; answered when what it held is with others.

    `own_fault`: it was not killed from outside.
    """

    request_id: int
    worker_index: int
    own_fault: bool


class WorkerRetire(msgspec.Struct, tag=True, frozen=True):
    """Give this worker nothing more; answered when it holds nothing.

    `if_idle`: refused while it holds something.
    """

    request_id: int
    worker_index: int
    if_idle: bool = False


class WishAnswered(msgspec.Struct, tag=True, frozen=True):
    """What `WorkersWanted` asked for is up (`is_met`), or no more can be now: those that are have to do."""

    is_met: bool


class Pause(msgspec.Struct, tag=True, frozen=True):
    """Pop nothing more; answered when nothing is in flight, or refused when `Resume` comes first."""

    request_id: int


class Resume(msgspec.Struct, tag=True, frozen=True):
    """Pop again."""

    request_id: int


class Recover(msgspec.Struct, tag=True, frozen=True):
    """All that an earlier dispatcher was told has been said again: go on where it ended.

    `own_fault`: it was not killed from outside.
    """

    own_fault: bool


class KeepFds(msgspec.Struct, tag=True, frozen=True):
    """Keep these descriptors, which come along, under these handles (`Custody`)."""

    part: str
    handles: list[int]


class KeepState(msgspec.Struct, tag=True, frozen=True):
    """Keep this in place of what was kept of the part before, and of its descriptors only these."""

    part: str
    data: bytes
    handles: list[int]
    lifeline: int = 0
    """The one of them that is a connection without whose other end nobody needs what is kept; 0: none is."""


class Answer(msgspec.Struct, tag=True, frozen=True):
    """A request is done, or was refused for the reason in `error`."""

    request_id: int
    value: int = 0
    error: str = ""


class WorkersWanted(msgspec.Struct, tag=True, frozen=True):
    """Requests wait for so many workers to be up. One is open at a time: until `WishAnswered`."""

    count: int


class RegionsUnused(msgspec.Struct, tag=True, frozen=True):
    """Dropped regions are not used by any request any more, and unmapped in the dispatcher."""

    region_indexes: list[int]


class QueueBroken(msgspec.Struct, tag=True, frozen=True):
    """A queue's rings cannot be right (a key of `BROKEN_REASONS`); it rests until it is reset."""

    queue_index: int
    reason: int


class MemoryLost(msgspec.Struct, tag=True, frozen=True):
    """Memory that the front end shares cannot be reached any more; all queues rest until they are reset."""

    region_indexes: list[int]
    lost_parts: int
    """A bit for each other part: `INFLIGHT` and `LOG` of shm/memory/guard.pyx."""


class CallUnheard(msgspec.Struct, tag=True, frozen=True):
    """A call was left out: the counter of the queue's call eventfd is full."""

    queue_index: int


class RequestGivenUp(msgspec.Struct, tag=True, frozen=True):
    """A request has killed three processes and was answered with an error."""

    description: str


class HandOver(msgspec.Struct, tag=True, frozen=True):
    """The first message to a dispatcher whose control plane has died: hand over what you keep, and hear me.

    Answered with `KeptFds` and `KeptState` for each part, then `AllKept`. Who finds that the drive is not its
    own closes the channel.
    """


class KeptFds(msgspec.Struct, tag=True, frozen=True):
    """Copies of descriptors that were kept come along, in the order of their handles."""

    handles: list[int]


class KeptState(msgspec.Struct, tag=True, frozen=True):
    """What was kept of a part."""

    part: str
    data: bytes


class AllKept(msgspec.Struct, tag=True, frozen=True):
    """That was all of it."""


ToDispatcher = (
    ChangeRegions
    | SetInflight
    | StartQueue
    | SetQueueFds
    | EnableQueue
    | SetLog
    | StopLog
    | SetQueueLog
    | SetBackendChannel
    | StopQueue
    | AwaitLetGo
    | FlushStorage
    | ChangeStorage
    | Sync
    | WorkerUp
    | WorkerDown
    | WorkerRetire
    | WishAnswered
    | Pause
    | Resume
    | Recover
    | KeepFds
    | KeepState
    | HandOver
    | Stop
)
Report = RegionsUnused | QueueBroken | MemoryLost | CallUnheard | RequestGivenUp
"""What asks for no answer. It may come twice, from a dispatcher and from its successor."""

FromDispatcher = Answer | WorkersWanted | Report

FromOrphan = KeptFds | KeptState | AllKept
"""What a dispatcher says first to a control plane that has come to it."""
