"""The supervisor's line to the dispatcher: requests with answers, and what a successor must be told again.

A request stays here until it is answered, whether or not somebody still waits for that. When a dispatcher
dies, its successor is first told all that was answered (`DriveModel`), then these requests once more, in
order; each of them may be carried out twice. A queue whose start was not answered may have been served, so
the successor hears of it before it takes over.
"""

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from ringblk.engine.devices.device import DeviceError
from ringblk.engine.dispatcher.messages import (
    SESSION_PART,
    Answer,
    FromDispatcher,
    KeepFds,
    KeepState,
    Pause,
    Recover,
    StartQueue,
    ToDispatcher,
    WorkerUp,
)
from ringblk.engine.supervisor.child import RETRY_S, Child
from ringblk.engine.supervisor.drive_model import Sent
from ringblk.shm.platform.wakeups import write_wakeup
from ringblk.shm.state.segment import StateSegment
from ringblk.shm.sync.channel import ChannelClosed, copy_fds
from ringblk.shm.sync.process import crash_point
from ringblk.workers.process.messages import ChangeStorage, Stop

NUDGE_S = 1.0
"""A dispatcher that does not answer for so long is nudged: it may be stuck in a front end's eventfd."""


class DispatcherGone(DeviceError):  # noqa: N818
    """There is no dispatcher any more and there will be none: the drive's processes end."""


def _gone() -> DispatcherGone:
    return DispatcherGone("the engine ends")


class _Request(msgspec.Struct):
    message: ToDispatcher
    fds: tuple[int, ...]
    answer: "asyncio.Future[int]"
    settle: Callable[[bool], None]


class DispatcherLink:
    """Sends to the dispatcher that lives now, and matches answers to requests."""

    def __init__(self, state: StateSegment, eventfd: int) -> None:
        self._state = state
        self.eventfd = eventfd
        """Wakes whichever process it is."""
        self._child: Child[FromDispatcher] | None = None
        self._begin: Callable[[], None] | None = None  # while its dispatcher was told nothing: tells it all
        # Never those of a control plane before this one, whose answers may still be on their way.
        self._request_ids = itertools.count(time.monotonic_ns())
        self._open: dict[int, _Request] = {}
        self._has_ended = False
        self._is_waking = False

    def connect(
        self,
        child: Child[FromDispatcher],
        told: Callable[[], Sent],
        kept: Callable[[], Sent],
        recover: Recover,
    ) -> None:
        """Talk to this dispatcher from now on: what `told` gives first, then every open request again.

        What `kept` gives is for it to keep. As long as there is nothing but workers and a pause to tell of,
        and no session, nothing is sent: a dispatcher that has not begun costs next to nothing.
        """
        self._child = child
        child.announce = self.wake
        self._begin = partial(self._tell_all, child, told, kept, recover)
        if self._open or any(_is_needed(message) for message, _ in (*told(), *kept())):
            self.begin()

    def go_on(self, child: Child[FromDispatcher]) -> None:
        """Talk to this dispatcher, which knows all that it is to know from another control plane."""
        self._child = child
        child.announce = self.wake

    def begin(self) -> None:
        """Tell a dispatcher that was told nothing all that there is."""
        if self._begin is not None:
            begin, self._begin = self._begin, None
            begin()

    def _tell_all(
        self,
        child: Child[FromDispatcher],
        told: Callable[[], Sent],
        kept: Callable[[], Sent],
        recover: Recover,
    ) -> None:
        open_requests = [(request.message, request.fds) for request in self._open.values()]
        starts = [pair for pair in open_requests if isinstance(pair[0], StartQueue)]
        others = [pair for pair in open_requests if not isinstance(pair[0], StartQueue)]
        try:
            for message, fds in [*told(), *starts, (recover, ()), *kept(), *others]:
                child.send(message, fds)
                crash_point("supervisor: set-up message sent")
        except ChannelClosed:
            return  # its pidfd tells the rest
        self.wake()

    def disconnect(self) -> None:
        """The dispatcher is gone; requests wait for the next."""
        self._child = None
        self._begin = None

    def close(self) -> None:
        """The processes end at once: whoever waits for an answer, now or later, gets `DispatcherGone`."""
        self._has_ended = True
        for request_id in list(self._open):
            self._resolve(request_id, 0, _gone())

    def stop(self) -> None:
        """Ask the dispatcher to end; nothing is in flight."""
        if self._child is not None:
            with contextlib.suppress(ChannelClosed):  # its pidfd tells the rest
                self._child.stop(Stop())
            self.wake()

    def tell(self, message: ToDispatcher, fds: Sequence[int] = ()) -> None:
        """Send without an answer.

        Lost if there is no dispatcher now, or none that has begun: what it is told then includes it.
        """
        if self._child is None or self._begin is not None:
            return
        try:
            self._child.send(message, fds)
        except ChannelClosed:
            return  # its pidfd tells the rest
        self._wake_soon()

    def _wake_soon(self) -> None:
        """Wake it once, after this turn of the loop: a reply to the front end does not wait for it."""
        if not self._is_waking:
            self._is_waking = True
            asyncio.get_running_loop().call_soon(self._wake_now)

    def _wake_now(self) -> None:
        self._is_waking = False
        if self._child is not None:
            self.wake()

    async def wait_sent(self) -> None:
        """Return once all that was told stands in the dispatcher's channel, or will be told to the next."""
        while self._child is not None and self._child.channel.has_unsent:
            await asyncio.sleep(RETRY_S)

    async def ask(
        self,
        make_message: Callable[[int], ToDispatcher],
        fds: Sequence[int] = (),
        settle: Callable[[bool], None] = lambda is_done: None,
        request_id: int | None = None,
    ) -> int:
        """Send a request and wait for its value. Raises `DeviceError` if refused (see `request`)."""
        return await self.wait(self.request(make_message, fds, settle, request_id))

    async def wait(self, answer: "asyncio.Future[int]") -> int:
        """The value of a request that was sent. Raises `DeviceError` if refused."""
        nudging = asyncio.get_running_loop().call_later(NUDGE_S, self._nudge, answer)
        try:
            return await answer  # it is carried out even where whoever asked has gone
        finally:
            nudging.cancel()
            del answer  # an error's traceback has this frame: what it keeps would be freed some day

    def _nudge(self, answer: "asyncio.Future[int]") -> None:
        """Nudge the dispatcher while somebody waits for this answer."""
        if answer.done():
            return
        if self._child is not None:
            self._child.nudge()
        asyncio.get_running_loop().call_later(NUDGE_S, self._nudge, answer)

    def request(
        self,
        make_message: Callable[[int], ToDispatcher],
        fds: Sequence[int] = (),
        settle: Callable[[bool], None] = lambda is_done: None,
        request_id: int | None = None,
    ) -> "asyncio.Future[int]":
        """Send a request; what is given back has its value, or its refusal, once that is known.

        It has this id, or one of its own. `settle` is called with whether it was done, at once when the
        answer comes and before anything else is sent: that is when the model changes. Raises `DeviceError`
        where it cannot be sent.
        """
        if self._has_ended:
            raise _gone()
        request_id = next(self._request_ids) if request_id is None else request_id
        message = make_message(request_id)
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        # Copies: the caller's descriptors may be closed before the request is sent a second time.
        try:
            copies = copy_fds(fds)
        except OSError as error:
            settle(False)
            raise DeviceError(f"its fds cannot be passed on: {error.strerror or error}") from error
        request = _Request(message, tuple(copies), answer, settle)
        self._open[request_id] = request
        if self._begin is not None:
            self.begin()  # which sends it, too
        else:
            self.tell(message, request.fds)
        crash_point("supervisor: request sent")
        return answer

    def take_answer(self, answer: Answer) -> None:
        """Resolve the request that this answers, if it is none of a set-up."""
        self._resolve(answer.request_id, answer.value, DeviceError(answer.error) if answer.error else None)

    def _resolve(self, request_id: int, value: int, error: DeviceError | None) -> None:
        request = self._open.pop(request_id, None)
        if request is None:
            return
        crash_point("supervisor: answer received")
        for fd in request.fds:
            os.close(fd)
        request.settle(error is None)
        if request.answer.cancelled():
            return  # whoever asked has gone
        if error is not None:
            request.answer.set_exception(error)
            request.answer.exception()  # seen, also where nobody waits for it
        else:
            request.answer.set_result(value)

    def wake(self) -> None:
        """Make the dispatcher look around, at its channel and at its limits, wherever in its loop it is."""
        self._state.announce_control()
        write_wakeup(self.eventfd)


def _is_needed(message: ToDispatcher) -> bool:
    """Whether a dispatcher has to hear this that has nothing to do yet."""
    match message:
        case KeepState():
            return message.part == SESSION_PART and bool(message.data)
        case WorkerUp() | Pause() | KeepFds() | ChangeStorage(storage=b""):
            return False
        case _:
            return True
