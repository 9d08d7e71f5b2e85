"""The sockets that the zygote and the service manager keep for the next control plane (`SocketKeeper`).

A front end that comes while there is no control plane waits in a listening socket's queue, which lives as
long as the socket does. One that was accepted is kept until its session is in its dispatcher's custody.
"""

import os
import socket
from collections.abc import Sequence
from typing import Protocol

from ringblk.engine.base.service_manager import ServiceManager
from ringblk.engine.vhost_user.listener import BACKLOG, socket_identity
from ringblk.engine.zygote.kept_parts import Segment, part_place
from ringblk.engine.zygote.kept_rings import kept_ring, ring_owner
from ringblk.engine.zygote.left_sockets import socket_number
from ringblk.engine.zygote.messages import ForgetSocket, KeepSocket
from ringblk.engine.zygote.restart import Restart
from ringblk.engine.zygote.stored_sockets import stored_name


class SocketZygote(Protocol):
    """As this is told of it."""

    restart: Restart | None
    manager: ServiceManager

    def tell(self, message: KeepSocket | ForgetSocket, fds: Sequence[int] = ()) -> None:
        """Have it keep a socket, or no longer."""


class SocketCustody:
    """Of one engine. Where nobody starts its control plane again, nothing is kept."""

    def __init__(self, zygote: SocketZygote) -> None:
        self._zygote = zygote
        left = {} if zygote.restart is None else dict(zygote.restart.sockets)
        self._rings: dict[int, int] = {}  # by process id
        self._parts: dict[int, KeepSocket] = {}
        self._left: dict[int, KeepSocket] = {}
        for fd, kept in left.items():
            if pid := ring_owner(kept):
                self._rings[pid] = fd
            elif part_place(kept) is not None:
                self._parts[fd] = kept
            else:
                self._left[fd] = kept

    def take_listening(self, place: str) -> socket.socket | None:
        """As `SocketKeeper` has it. It is kept still."""
        for end, kept in self._take_left(place, is_listening=True):
            if _stands(place, kept):
                end.listen(BACKLOG)  # who connects is told of this process from now on (SO_PEERCRED)
                return end
            self.let_go(end)
            end.close()
        return None

    def take_connections(self, place: str) -> list[socket.socket]:
        """As `SocketKeeper` has it. They are kept still."""
        return [end for end, _ in self._take_left(place, is_listening=False)]

    def _take_left(self, place: str, *, is_listening: bool) -> list[tuple[socket.socket, KeepSocket]]:
        name = os.fsencode(place)
        found = [
            (fd, kept)
            for fd, kept in self._left.items()
            if kept.place == name and kept.is_listening == is_listening
        ]
        for fd, _ in found:
            del self._left[fd]
        return [(socket.socket(fileno=fd), kept) for fd, kept in found]

    def keep(self, end: socket.socket, place: str, file: tuple[int, int] | None = None) -> None:
        """As `SocketKeeper` has it."""
        restart = self._zygote.restart
        if restart is None:
            return
        device, inode = file or (0, 0)
        message = KeepSocket(socket_number(end.fileno()), os.fsencode(place), device, inode, file is not None)
        restart.sockets[end.fileno()] = message
        self._zygote.tell(message, [end.fileno()])
        if (name := stored_name(message)) is not None:
            self._zygote.manager.store(name, end.fileno())

    def let_go(self, end: socket.socket) -> None:
        """As `SocketKeeper` has it."""
        restart = self._zygote.restart
        kept = None if restart is None else restart.sockets.pop(end.fileno(), None)
        if kept is not None:
            self._zygote.tell(ForgetSocket(kept.identity))
            if (name := stored_name(kept)) is not None:
                self._zygote.manager.forget(name)

    def take_ring(self, pid: int) -> int | None:
        """The io_uring of a process of a supervisor before this one: the caller's, and kept still."""
        return self._rings.pop(pid, None)

    def take_parts(self, segment: Segment) -> dict[tuple[str, int], int]:
        """What the second custody of a drive has left, by part and handle: the caller's, and kept no more."""
        found = {}
        for fd, kept in list(self._parts.items()):
            place = part_place(kept)
            if place is not None and segment == (kept.device, kept.inode):
                found[place] = fd
                self._drop(fd, self._parts.pop(fd))
        return found

    def close_parts(self) -> None:
        """Let go of what the second custodies have left that nobody has taken."""
        while self._parts:
            fd, kept = self._parts.popitem()
            self._drop(fd, kept)
            os.close(fd)

    def _drop(self, fd: int, kept: KeepSocket) -> None:
        assert self._zygote.restart is not None, "it has kept this"
        self._zygote.restart.sockets.pop(fd, None)
        self._zygote.tell(ForgetSocket(kept.identity))

    def close_left(self) -> None:
        """Let go of all that nobody has taken: nobody of this engine is to listen there any more."""
        while self._rings:
            pid, fd = self._rings.popitem()
            self._drop(fd, kept_ring(pid))
            os.close(fd)
        while self._left:
            with socket.socket(fileno=self._left.popitem()[0]) as end:
                self.let_go(end)


def _stands(place: str, kept: KeepSocket) -> bool:
    """Whether the socket's name is its own still."""
    try:
        return socket_identity(place) == (kept.device, kept.inode)
    except OSError:
        return False
