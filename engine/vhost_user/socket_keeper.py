"""Sockets that outlive this process: the next one listens on, and nobody is turned away.

A *place* is where front ends come to: the path of a socket's name, or which inherited socket it is.
"""

import socket
from typing import Protocol


class SocketKeeper(Protocol):
    """Whoever keeps them meanwhile."""

    def take_listening(self, place: str) -> socket.socket | None:
        """The socket that a process before this one has listened on there, if its name stands still."""

    def take_connections(self, place: str) -> list[socket.socket]:
        """Front ends that such a process has accepted, and of whom it has taken nothing in hand."""

    def keep(self, end: socket.socket, place: str, file: tuple[int, int] | None = None) -> None:
        """Keep a socket: a listening one whose name is that file (device and inode), or a connection."""

    def let_go(self, end: socket.socket) -> None:
        """Keep it no longer, if it is kept. Still open here."""


class KeepsNothing:
    """What dies with this process is gone."""

    def take_listening(self, place: str) -> socket.socket | None:
        """There is none."""

    def take_connections(self, place: str) -> list[socket.socket]:
        """There are none."""
        return []

    def keep(self, end: socket.socket, place: str, file: tuple[int, int] | None = None) -> None:
        """Nothing."""

    def let_go(self, end: socket.socket) -> None:
        """Nothing."""


NOTHING_KEPT = KeepsNothing()
