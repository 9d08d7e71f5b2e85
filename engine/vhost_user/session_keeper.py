"""What is kept of a session outside of its process, so that another process goes on with it.

Fault model: the session's process is ended by SIGKILL, at any instruction. The front end, the custodian and
the kernel live on. What is kept is a state, replaced as a whole, and copies of descriptors. These outlive the
process beside it:
- the connection itself, with what was not read of it, and how far it was peeked into (SO_PEEK_OFF);
- the marks in shared memory (`SessionMarks`), one of which the kernel makes within the call that sends.

A message passes through these steps. The next process finds out from what is kept which was the last:
1. It is peeked at, bytes and descriptors. Nothing has happened: it is peeked at anew.
2. It is kept as the message in hand.
3. Its bytes are taken from the connection. While a message is in hand, SO_PEEK_OFF is the number of its
   bytes that are still to be taken, as the kernel lowers it by what is read.
4. It is carried out. The next process does so again, from the same state: the device gets the same calls in
   the same order, and sees to it that each has its effect once.
5. The outcome is kept: the state that it has led to, no message in hand, and the reply.
6. The reply is sent and marked as sent, both in one system call.
A session that is over is kept as such before the device is reset, and is kept no more after that.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from ringblk.engine.vhost_user.fd_set import FdSet, HeldFd
from ringblk.engine.vhost_user.messages import VringAddress
from ringblk.shm.memory.region import MemoryRegion

FdsByHandle = dict[int, int]
"""Descriptors of this process by their handles. Who takes one out owns it."""


class KeptMessage(msgspec.Struct, frozen=True, array_like=True):
    """The message in hand: all of its bytes, and the handles of its fds in their order."""

    data: bytes
    fds: tuple[int, ...] = ()


class KeptReply(msgspec.Struct, frozen=True, array_like=True):
    """The last reply, which may have been sent (`SessionMarks.was_sent`). `fd` is a handle."""

    number: int
    data: bytes
    fd: int | None = None


class KeptVring(msgspec.Struct, frozen=True, array_like=True):
    """One ring's `VringSetup`. `kick`, `call` and `err` are handles."""

    queue_size: int | None
    address: VringAddress | None
    base: int
    has_kick: bool
    enabled: bool
    running: bool
    kick: int | None
    call: int | None
    err: int | None


class KeptSession(msgspec.Struct, frozen=True, array_like=True):
    """A session between two steps. Descriptors are handles."""

    connection: int
    """The connected socket."""
    marks: int
    """The memory of its `SessionMarks`."""
    has_begun: bool
    """Whether the front end has sent a whole message."""
    features: int
    protocol_features: int
    status: int
    slot_count: int
    """How many memory regions the front end was told that it may add."""
    regions: tuple[tuple[int, int, int, int], ...]
    """The fields of each `MemoryRegion`. Their fds are the device's."""
    rings: tuple[KeptVring, ...]
    channel: int | None
    """The back-end channel, sealed."""
    message: KeptMessage | None
    reply: KeptReply | None
    reply_count: int
    is_over: bool
    """The device is to be reset, or was; nothing else will come."""

    def memory_regions(self) -> list[MemoryRegion]:
        """The region table."""
        return [MemoryRegion(*fields) for fields in self.regions]

    def handles(self) -> list[int]:
        """All handles that this state names: what must stay in custody for as long as it is kept."""
        handles = [self.connection, self.marks, self.channel]
        for ring in self.rings:
            handles += (ring.kick, ring.call, ring.err)
        if self.message is not None:
            handles += self.message.fds
        if self.reply is not None:
            handles.append(self.reply.fd)
        return [handle for handle in handles if handle is not None]


class SessionKeeper(Protocol):
    """Puts what is kept of one session after the other into custody.

    The order of calls is the order of effects: what was given to `keep` is in custody before the next state.
    Where the custodian has gone, its keeper sees to another, to which all is given again; the session hears
    nothing of that.
    """

    @property
    def is_keeping(self) -> bool:
        """Whether anything is kept at all; else the other methods are never called."""

    def keep(self, fds: Sequence[int]) -> list[int]:
        """Give copies of these into custody; their handles, which are never given twice in a session.

        Raises `OSError` where that needs descriptors and there are none.
        """

    async def commit(self, state: KeptSession | None) -> None:
        """Keep this state in place of the one before; None: there is no session.

        Returns once the state is in the custodian's socket, so that it outlives this process. Descriptors
        may go that it does not name (`KeptSession.handles`). Where the call is cancelled, the state may be
        kept or not, and another call follows.
        """


class _NotKept:
    """Nothing is kept: a session ends with its process."""

    is_keeping = False

    def keep(self, fds: Sequence[int]) -> list[int]:
        raise AssertionError("nothing is kept")

    async def commit(self, state: KeptSession | None) -> None:
        raise AssertionError("nothing is kept")


NOT_KEPT: SessionKeeper = _NotKept()


def take_held(fds: FdsByHandle, handle: int | None) -> HeldFd | None:
    """The descriptor with this handle, the caller's from then on."""
    return None if handle is None else HeldFd(fds.pop(handle), handle)


def take_set(fds: FdsByHandle, handles: Sequence[int]) -> FdSet:
    """The descriptors with these handles, as they came with a message."""
    return FdSet([fds.pop(handle) for handle in handles], handles)
