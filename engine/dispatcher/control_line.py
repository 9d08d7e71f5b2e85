"""A dispatcher's line to the control plane, which may die, and to the next one.

Requests that a session makes may come twice, from a control plane and from the next one, which carries out
the message that its predecessor had in hand. They have the same ids then, and one that was answered is
answered with the same words, not carried out again.
"""

import logging
import os
import select
import socket
from typing import Protocol

import msgspec

from ringblk.engine.dispatcher.custody import Custody
from ringblk.engine.dispatcher.messages import (
    SESSION_PART,
    SESSION_REQUESTS,
    Answer,
    ChangeRegions,
    FromDispatcher,
    HandOver,
    KeepFds,
    KeepState,
    MemoryLost,
    QueueBroken,
    SetInflight,
    StartQueue,
    StopQueue,
    Sync,
    ToDispatcher,
    WishAnswered,
    WorkersWanted,
)
from ringblk.shm.platform.message_end import message_socket
from ringblk.shm.platform.peer import peer_user_id
from ringblk.shm.sync.channel import Channel, ChannelClosed
from ringblk.shm.sync.process import crash_point

_MAX_COMING = 8

_log = logging.getLogger(__name__)


class AdoptionPlace(msgspec.Struct, frozen=True):
    """Where the next control plane comes to."""

    listening_fd: int
    """A listening socket that never keeps anybody waiting (O_NONBLOCK)."""
    user_ids: frozenset[int]
    """Who may come."""


class ControlWatch(Protocol):
    """What waits while there is nothing to do (`QueueTable`)."""

    def watch_channel(self, fd: int) -> None:
        """End a wait when this channel is closed at its other end; -1: there is none now."""

    def watch_control(self, fd: int) -> None:
        """End a wait, too, when this descriptor becomes readable."""


class ControlLine:
    """Sends and receives. Between two control planes it keeps what the next one must hear."""

    def __init__(
        self,
        channel: Channel[ToDispatcher],
        place: AdoptionPlace | None,
        watch: ControlWatch,
    ) -> None:
        """`place` None: the process ends with its control plane."""
        self._channel: Channel[ToDispatcher] | None = channel
        self._watch = watch
        watch.watch_channel(channel.socket.fileno())
        self._place = place
        self._listening = None
        if place is not None:
            self._listening = message_socket(place.listening_fd)
            watch.watch_control(place.listening_fd)
        self._coming: list[Channel[ToDispatcher]] = []  # who has come and not said anything yet
        self._custody = Custody()
        self._asked: dict[int, ToDispatcher] = {}  # the session's requests since its state was kept last
        self._answers: dict[int, Answer] = {}  # to those that were answered
        self._wish: WorkersWanted | None = None  # that is not answered
        self._reports: list[MemoryLost | QueueBroken] = []  # of the session that there is

    def watched_fds(self) -> list[int]:
        """The descriptors that say when somebody is to be heard: who comes too early is left waiting."""
        if self._channel is not None:
            return [self._channel.socket.fileno()]
        comers = [channel.socket.fileno() for channel in self._coming]
        return comers if self._listening is None else [*comers, self._listening.fileno()]

    def close(self) -> None:
        """Let go of all sockets: one that is forgotten open asks for names, which the sandbox refuses."""
        for channel in (self._channel, *self._coming):
            if channel is not None:
                channel.close()
        if self._listening is not None:
            self._listening.close()

    def send(self, message: FromDispatcher) -> None:
        """Tell the control plane, or the next. Raises `ChannelClosed` where there will be none."""
        match message:
            case Answer() if message.request_id >= SESSION_REQUESTS:
                self._answers[message.request_id] = message
            case WorkersWanted():
                self._wish = message
            case MemoryLost() | QueueBroken() if message not in self._reports:
                self._reports.append(message)
        if self._channel is not None:
            try:
                self._channel.send(message)
            except ChannelClosed:
                self._lose()

    def flush(self) -> None:
        """Send what waits for room. Raises `ChannelClosed`."""
        if self._channel is not None:
            try:
                self._channel.flush()
            except ChannelClosed:
                self._lose()

    def receive(self) -> tuple[ToDispatcher, list[int]] | None:
        """The next message that is to be carried out, and its descriptors; None when there is none now.

        Raises `ChannelClosed` where there will be none any more.
        """
        while True:
            if self._channel is None and not self._take_next():
                self._check_needed()
                return None
            assert self._channel is not None
            try:
                received = self._channel.receive()
            except ChannelClosed:
                self._lose()
                continue
            if received is None or not self._handle(*received):
                return received

    def _handle(self, message: ToDispatcher, fds: list[int]) -> bool:
        """Do what is the line's own to do; whether that was all."""
        if isinstance(message, (StartQueue, StopQueue)):
            self._forget_broken(message.queue_index)
        match message:
            case KeepFds():
                self._custody.keep_fds(message.part, message.handles, fds)
            case KeepState():
                self._custody.keep_state(message.part, message.data, message.handles, message.lifeline)
                if message.part == SESSION_PART:
                    self._asked.clear()
                    self._answers.clear()
                    if not message.data:
                        self._reports.clear()
            case WishAnswered():
                self._wish = None
                return False
            case Sync():
                self.send(Answer(message.request_id))
            case _ if getattr(message, "request_id", 0) >= SESSION_REQUESTS:
                return self._is_repeated(message, fds)
            case _:
                return False
        return True

    def _forget_broken(self, queue_index: int) -> None:
        """It is reset: how often a guest breaks it and begins anew, there is one report of it at most."""
        self._reports = [
            report
            for report in self._reports
            if not (isinstance(report, QueueBroken) and report.queue_index == queue_index)
        ]

    def _is_repeated(self, message: ToDispatcher, fds: list[int]) -> bool:
        request_id: int = message.request_id  # type: ignore[union-attr]
        # A change of regions tells more than its answer, another in-flight region is another; both may be
        # carried out twice.
        is_new = self._asked.get(request_id) != message
        if is_new or isinstance(message, (ChangeRegions, SetInflight)):
            self._asked[request_id] = message
            self._answers.pop(request_id, None)
            return False
        for fd in fds:
            os.close(fd)
        if request_id in self._answers:  # else it is, when it is done
            self.send(self._answers[request_id])
        return True

    def _lose(self) -> None:
        """The control plane has died. Raises `ChannelClosed` where it served no front end."""
        assert self._channel is not None
        if self._listening is None or not self._custody.has(SESSION_PART):
            raise ChannelClosed("the supervisor is gone")
        self._watch.watch_channel(self._custody.lifeline_fd(SESSION_PART))
        self._channel.close()
        self._channel = None
        _log.warning("the supervisor is gone; guests go on until another comes")

    def _check_needed(self) -> None:
        """Raises `ChannelClosed` where nobody comes, and the front end has gone."""
        lifeline_fd = self._custody.lifeline_fd(SESSION_PART)
        if lifeline_fd < 0:
            return
        looking = select.poll()
        looking.register(lifeline_fd, 0)
        if looking.poll(0):  # POLLHUP
            raise ChannelClosed("supervisor and front end are gone")

    def _take_next(self) -> bool:
        """Whether another control plane has come; it is told all that is kept, and what it may not know."""
        assert self._listening is not None
        while True:
            if any(map(self._hear_coming, list(self._coming))):
                return True
            try:
                end, _ = self._listening.accept()
            except OSError:  # nobody has come, or has gone again
                return False
            self._let_in(end)

    def _let_in(self, end: socket.socket) -> None:
        """Hear who has come, if it is one who may: anybody can connect to an abstract socket."""
        assert self._place is not None
        if (user_id := peer_user_id(end)) not in self._place.user_ids:
            _log.warning("user %d has come in the place of the supervisor and is not heard", user_id)
            end.close()
            return
        if len(self._coming) == _MAX_COMING:  # those that say nothing are not to keep others out
            self._coming.pop(0).close()
        self._coming.append(Channel(end, ToDispatcher))
        self._watch.watch_control(end.fileno())

    def _hear_coming(self, channel: Channel[ToDispatcher]) -> bool:
        """Whether who has come is the next control plane, which has our line from now on."""
        try:
            if (received := channel.receive()) is None:
                return False
            for fd in received[1]:
                os.close(fd)
            if received[0] != HandOver():
                raise ChannelClosed("it asks for something else")
            self._custody.hand_over(channel)
            crash_point("custody: handed over")
            for message in [*self._reports, *([self._wish] if self._wish is not None else [])]:
                channel.send(message)
        except (ChannelClosed, OSError, msgspec.DecodeError) as error:
            _log.warning("somebody has come in the place of the supervisor and is not heard: %s", error)
            channel.close()
            self._coming.remove(channel)
            return False
        self._coming.remove(channel)
        self._channel = channel
        self._watch.watch_channel(channel.socket.fileno())
        return True
