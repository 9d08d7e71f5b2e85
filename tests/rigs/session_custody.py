"""Custody of a session that is served in another process: what is kept of it, and the device's effects.

It stands for the dispatcher of a drive. It keeps descriptors and the last state, and lets go of descriptors
that the state does not name. Requests of the device have ids; one that comes again before the next state is
answered as it was before, and must be the same.
"""

import contextlib
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from ringblk.engine.vhost_user.session_keeper import KeptSession
from ringblk.shm.sync.channel import Channel, ChannelClosed


class DeviceState(msgspec.Struct):
    """What the device in the session's process knows, kept with the session."""

    next_id: int = 0
    next_handle: int = 0
    notes: list[tuple[str, Any]] = msgspec.field(default_factory=list)
    """Calls that ask nobody else."""


class Kept(msgspec.Struct):
    """All that is kept."""

    session: KeptSession | None
    device: DeviceState


class KeepFds(msgspec.Struct, tag=True):
    """Keep the descriptors that come along under these handles."""

    handles: list[int]


class KeepState(msgspec.Struct, tag=True):
    """Keep this in place of what was kept, and the descriptors with these handles alone."""

    kept: Kept
    handles: list[int]


class Request(msgspec.Struct, tag=True):
    """Have an effect, once. It may come with descriptors."""

    request_id: int
    name: str
    arguments: list[Any]


class Answer(msgspec.Struct, tag=True):
    """It has had its effect."""

    request_id: int
    value: int


class Live(msgspec.Struct, tag=True):
    """Serve or go on: the descriptors are the channel, and the connection or those with these handles."""

    kept: Kept | None
    handles: list[int]


ToCustodian: TypeAlias = KeepFds | KeepState | Request


class Custodian:
    """Owns what is in custody."""

    def __init__(self) -> None:
        self.kept: Kept | None = None
        self.fds: dict[int, int] = {}
        self.effects: list[tuple[str, Any]] = []
        self.states = 0
        self._done: dict[int, tuple[Any, Answer]] = {}
        self._channel: Channel[ToCustodian] | None = None
        self._highest = -1

    def connect(self) -> socket.socket:
        """A channel for the next process; the other end, which is the caller's."""
        self.disconnect()
        ours, theirs = Channel.socketpair()
        self._channel = Channel(ours, ToCustodian)
        return theirs

    def disconnect(self) -> None:
        """The process is gone: take what it has sent to the end, and close."""
        if self._channel is not None:
            while self.look():
                pass
            self._channel.close()
            self._channel = None

    @property
    def socket(self) -> socket.socket:
        """What to wait at."""
        assert self._channel is not None
        return self._channel.socket

    def look(self) -> bool:
        """Take one message, if there is one."""
        assert self._channel is not None
        try:
            received = self._channel.receive()
        except ChannelClosed:
            return False
        if received is None:
            return False
        message, fds = received
        if isinstance(message, KeepFds):
            assert len(message.handles) == len(fds)
            assert min(message.handles) > self._highest, "a handle is used twice"
            self._highest = max(message.handles)
            self.fds.update(zip(message.handles, fds, strict=True))
        elif isinstance(message, KeepState):
            assert not fds
            self._keep(message)
        else:
            self._answer(message, fds)
        return True

    def _keep(self, message: KeepState) -> None:
        self.kept = message.kept
        self.states += 1
        self._done.clear()
        assert self.fds.keys() >= set(message.handles), "a state names what is not kept"
        for handle in self.fds.keys() - set(message.handles):
            os.close(self.fds.pop(handle))

    def _answer(self, request: Request, fds: Sequence[int]) -> None:
        assert self._channel is not None
        asked = (request.name, request.arguments, [identity(fd) for fd in fds])
        for fd in fds:
            os.close(fd)
        if request.request_id not in self._done:
            self.effects.append((request.name, asked[1:]))
            self._done[request.request_id] = (asked, Answer(request.request_id, len(self.effects)))
        former, answer = self._done[request.request_id]
        assert former == asked, "another request under the same id"
        with contextlib.suppress(ChannelClosed):  # it is asked for again by the next process
            self._channel.send(answer)

    def close(self) -> None:
        """Let go of all."""
        self.disconnect()
        while self.fds:
            os.close(self.fds.popitem()[1])


def identity(fd: int) -> str:
    """What tells the file behind a descriptor from all others, in every process."""
    link = os.readlink(f"/proc/self/fd/{fd}")
    if link == "anon_inode:[eventfd]":
        lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
        return next(line for line in lines if line.startswith("eventfd-id"))
    info = os.fstat(fd)
    return f"{info.st_dev}:{info.st_ino}"
