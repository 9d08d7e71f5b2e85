"""What unix sockets can do on one system and not on another."""

import fcntl
import socket
import sys
from collections.abc import Iterable

NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
"""For send calls. Without it there is no SIGPIPE either: Python ignores it."""
CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
"""For receive calls; `close_on_exec` does the rest."""
CAN_LOOK_AHEAD = sys.platform == "linux"
"""Whether a look into a stream goes on where the last one ended, and sees descriptors part by part."""
_SO_PEEK_OFF = getattr(socket, "SO_PEEK_OFF", 42)  # asm-generic/socket.h


def close_on_exec(fds: Iterable[int]) -> None:
    """Have descriptors that were received closed where a program is started."""
    if not CLOSE_ON_EXEC:
        for fd in fds:
            fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)


def look_from(connected: socket.socket, offset_bytes: int) -> None:
    """Have the next look ahead begin after so many bytes, where there is one; -1: looks end."""
    if CAN_LOOK_AHEAD:
        connected.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, offset_bytes)


def looked_at_bytes(connected: socket.socket) -> int:
    """How many bytes have been looked at, and not read since, in a look ahead that goes on."""
    return connected.getsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF) if CAN_LOOK_AHEAD else 0
