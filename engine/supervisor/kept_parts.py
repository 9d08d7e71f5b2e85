"""What the dispatcher keeps for this control plane, and what the next one gets of it (`Custody`)."""

import os
import select
import socket
import time
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ringblk.engine.dispatcher.messages import (
    SESSION_PART,
    AllKept,
    FromDispatcher,
    FromOrphan,
    HandOver,
    KeepFds,
    KeepState,
    KeptFds,
    KeptState,
)
from ringblk.engine.supervisor.dispatcher_link import DispatcherLink
from ringblk.engine.supervisor.drive_model import Sent
from ringblk.engine.supervisor.second_custody import STATE, SecondCustody, read_state
from ringblk.shm.platform.message_end import new_message_socket
from ringblk.shm.platform.peer import peer_user_id
from ringblk.shm.segments.segment import SegmentError
from ringblk.shm.state.segment import StateSegment
from ringblk.shm.sync.channel import Channel, ChannelClosed, copy_fds, encode_message, in_messages
from ringblk.shm.sync.process import crash_point

ANSWER_TIMEOUT_S = 10.0
_MOST_WAITING = 16
"""Anybody can connect, and is sent away when the dispatcher looks; those must not keep the right one out."""


class _Part(msgspec.Struct):
    data: bytes = b""
    fds: dict[int, int] = {}
    """By handle."""
    lent: set[int] = set()
    """Handles of those that are somebody else's."""
    lifeline: int = 0
    """As `KeepState` has it."""

    def drop(self, handle: int) -> None:
        """Have it no more."""
        fd = self.fds.pop(handle)
        if handle in self.lent:
            self.lent.discard(handle)
        else:
            os.close(fd)


class KeptParts:
    """Parts by name, as the dispatcher that lives now has them, or the next will be told.

    All that is told goes into the dispatcher's channel in order, and what stands there outlives this process.
    """

    def __init__(self, link: DispatcherLink, second: SecondCustody | None = None) -> None:
        """`second` has them, too, from the moment that a session begins until it ends."""
        self._link = link
        self._second = second
        self._parts: dict[str, _Part] = {}
        self._last_handle = 0

    def keep(self, part: str, fds: Sequence[int], *, are_lent: bool = False) -> list[int]:
        """Have copies of these kept; returns a handle for each, never used before. Raises `OSError`.

        This process has copies, too, for the next dispatcher; `are_lent`: it needs none, as these stay open
        for as long as the part names them.
        """
        copies = fds if are_lent else copy_fds(fds)
        handles = list(range(self._last_handle + 1, self._last_handle + 1 + len(fds)))
        self._last_handle += len(fds)
        added = dict(zip(handles, copies, strict=True))
        kept = self._parts.setdefault(part, _Part())
        kept.fds |= added
        if are_lent:
            kept.lent.update(handles)
        for message, few in _fds_messages(part, added):
            self._link.tell(message, few)
        if self._second is not None and self._second.has_begun:
            self._second.keep(part, added)
        return handles

    def keep_state(
        self,
        part: str,
        data: bytes,
        handles: Iterable[int] = (),
        *,
        lifeline: int = 0,
        begins: bool = False,
    ) -> None:
        """Have this kept in place of what there was, and of the part's descriptors those alone.

        A dispatcher that was told nothing yet hears of it with all else, at once where this `begins` it.
        """
        kept = self._parts.setdefault(part, _Part())
        used = set(handles)
        for handle in kept.fds.keys() - used:
            kept.drop(handle)
        kept.data, kept.lifeline = data, lifeline
        self._keep_second(part, begins=begins)
        if begins:
            self._link.begin()
        self._link.tell(KeepState(part, data, sorted(used), lifeline))
        crash_point("custody: state kept")

    def _keep_second(self, part: str, *, begins: bool) -> None:
        """Before the dispatcher hears of it: what both know last is as far as anything has come."""
        if self._second is None:
            return
        if begins and not self._second.has_begun:
            self.begin_second()
        elif part == SESSION_PART and not self._parts[part].data:
            self._second.end()
        elif self._second.has_begun:
            self._second.keep_state(part, self._parts[part].data, self._parts[part].fds)

    def begin_second(self) -> None:
        """Have the second custody have all that there is."""
        if self._second is not None:
            for part, kept in self._parts.items():
                self._second.keep(part, kept.fds)
                self._second.keep_state(part, kept.data, kept.fds)

    async def wait_told(self) -> None:
        """Return once what was kept stands in the dispatcher's channel."""
        await self._link.wait_sent()

    def messages(self) -> Sent:
        """All of it, for a new dispatcher."""
        sent: Sent = []
        for part, kept in self._parts.items():
            sent.extend(_fds_messages(part, kept.fds))
            sent.append((KeepState(part, kept.data, sorted(kept.fds), kept.lifeline), []))
        return sent

    def close(self) -> None:
        """Let go of all copies; nobody is to go on."""
        if self._second is not None:
            self._second.end()
        for kept in self._parts.values():
            for handle in list(kept.fds):
                kept.drop(handle)
        self._parts.clear()

    def resume(self, adopted: "AdoptedParts", part: str, handles: Iterable[int], lifeline: int = 0) -> None:
        """Go on with a part of a predecessor's. Raises `AdoptionFailed` and `OSError`."""
        fds = {handle: adopted.take(handle) for handle in handles}
        self._parts[part] = _Part(adopted.states[part], fds, lifeline=lifeline)
        self._last_handle = max([self._last_handle, *adopted.fds])


def _fds_messages(part: str, fds: dict[int, int]) -> Sent:
    return [
        (KeepFds(part, [handle for handle, _ in few]), [fd for _, fd in few])
        for few in in_messages(list(fds.items()))
    ]


class AdoptionFailed(Exception):  # noqa: N818
    """A drive of a control plane that has died cannot be gone on with: end its processes, and begin anew."""


class AdoptedParts(msgspec.Struct):
    """What a dispatcher has handed over, and the channel to it."""

    channel: Channel[FromDispatcher]
    states: dict[str, bytes]
    fds: dict[int, int]
    """By handle; of who takes them."""

    def take(self, handle: int) -> int:
        """A copy of that descriptor, the caller's. Raises `AdoptionFailed` and `OSError`."""
        if handle not in self.fds:
            raise AdoptionFailed(f"descriptor {handle} was not kept")
        return os.dup(self.fds[handle])

    def close(self) -> None:
        """Let go of all that was not taken."""
        for fd in self.fds.values():
            os.close(fd)
        self.fds.clear()

    def let_go(self) -> None:
        """The same, and of the channel."""
        self.channel.close()
        self.close()


def adoption_name(segment_fd: int) -> str:
    """Where the dispatcher of this state segment waits for another control plane (unix(7), abstract)."""
    info = os.fstat(segment_fd)
    return f"\0ringblk-{info.st_dev}-{info.st_ino}"


def listen_for_adoption(segment_fd: int) -> socket.socket:
    """The socket that a dispatcher is to wait at. Raises `OSError`."""
    listening = new_message_socket()
    try:
        listening.bind(adoption_name(segment_fd))
        listening.listen(_MOST_WAITING)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening


def connect_to_orphan(segment_fd: int) -> socket.socket | None:
    """Go to the dispatcher of this segment, and call it; None where there is none that waits.

    Anybody can listen at a name that is free, with a segment made for it: only this user's own is called.
    """
    end = new_message_socket()
    end.settimeout(ANSWER_TIMEOUT_S)  # one that hangs takes nobody in
    try:
        end.connect(adoption_name(segment_fd))
        if peer_user_id(end) != os.geteuid():  # as of `listen_for_adoption`
            end.close()
            return None
        end.setblocking(True)
        end.send(encode_message(HandOver()))
        StateSegment.of_fd(os.dup(segment_fd)).announce_control()
    except (OSError, SegmentError):
        end.close()
        return None
    return end


def left_parts(entries: Mapping[tuple[str, int], int]) -> AdoptedParts | None:
    """What the second custody has left, with a channel in which nobody hears; None where it is not whole.

    The descriptors are the adopter's from then on, or closed.
    """
    if not entries:
        return None
    ours, theirs = Channel.socketpair()
    theirs.close()
    adopted = AdoptedParts(Channel(ours, FromDispatcher, takes_fds=False), {}, {})
    adopted.fds |= {handle: fd for (_, handle), fd in entries.items() if handle != STATE}
    try:
        for (part, handle), fd in entries.items():
            if handle != STATE:
                continue
            state = read_state(fd)
            os.close(fd)
            if state is None or set(state.handles) - adopted.fds.keys():
                raise AdoptionFailed(f"its {part} are not whole")
            adopted.states[part] = state.data
    except (AdoptionFailed, OSError, msgspec.DecodeError):
        adopted.let_go()
        return None
    return adopted


def take_parts(end: socket.socket, given_up_s: float | None = None) -> AdoptedParts:
    """Hear what is kept, from a dispatcher that was called. Raises `AdoptionFailed`.

    `given_up_s`, on the monotonic clock, is when one that says nothing is left alone.
    """
    if given_up_s is None:
        given_up_s = time.monotonic() + ANSWER_TIMEOUT_S
    channel: Channel[FromOrphan] = Channel(end, FromOrphan)
    adopted = AdoptedParts(Channel(end, FromDispatcher, takes_fds=False), {}, {})
    try:
        _take_all(channel, adopted, given_up_s)
    except (ChannelClosed, OSError, msgspec.DecodeError) as error:
        adopted.close()
        channel.close()
        raise AdoptionFailed(f"its dispatcher does not hand over: {error}") from error
    return adopted


def _take_all(channel: Channel[FromOrphan], adopted: AdoptedParts, given_up_s: float) -> None:
    looking = select.poll()
    looking.register(channel.socket, select.POLLIN)
    while True:
        while (received := channel.receive()) is None:
            if not looking.poll(max(0.0, given_up_s - time.monotonic()) * 1000):
                raise ChannelClosed("no answer")
        message, fds = received
        match message:
            case KeptFds():
                adopted.fds |= dict(zip(message.handles, fds, strict=True))
            case KeptState():
                adopted.states[message.part] = message.data
            case AllKept():
                return
