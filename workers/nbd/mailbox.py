"""Where a process leaves the sockets that it uses, so that another takes the replies that are owed to it.

A pair of sockets for each connection, which all processes of the drive have. Whoever has connected puts the
new socket in, in place of the one before, and only then sends a request through it. A socket that lies here
stays open when the process has died, so the server does not take its client for gone.
"""

import array
import contextlib
import os
import socket
import struct
from collections.abc import Sequence

from ringblk.shm.platform.message_end import message_pair, message_socket
from ringblk.shm.platform.socket_options import CLOSE_ON_EXEC

_GENERATION = struct.Struct("=I")
_FD_BYTES = array.array("i").itemsize


class Mailbox:
    """Of one connection. `fds` are the pair's, which become this object's; None makes a new pair."""

    def __init__(self, fds: Sequence[int] | None = None) -> None:
        if fds is None:
            self._ends = message_pair()
        else:
            self._ends = message_socket(fds[0]), message_socket(fds[1])

    @property
    def fds(self) -> tuple[int, int]:
        """For other processes."""
        return self._ends[0].fileno(), self._ends[1].fileno()

    def put(self, generation: int, fd: int) -> None:
        """Leave a copy of this socket in place of what is here. Raises `OSError`."""
        for _, former_fd in iter(self.take, None):
            os.close(former_fd)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]).tobytes())
        self._ends[0].sendmsg([_GENERATION.pack(generation)], [rights], socket.MSG_DONTWAIT)

    def take(self) -> tuple[int, int] | None:
        """The number of a connection, and its socket, the caller's from now on; None: there is none here."""
        with contextlib.suppress(BlockingIOError):
            # Not recv_fds, which leaves the flags out.
            text, ancillary, _, _ = self._ends[1].recvmsg(
                _GENERATION.size, socket.CMSG_LEN(_FD_BYTES), socket.MSG_DONTWAIT | CLOSE_ON_EXEC
            )
            if ancillary:
                return _GENERATION.unpack(text)[0], array.array("i", ancillary[0][2])[0]
        return None

    def close(self) -> None:
        """Let go of it; a socket in it is closed with its last holder."""
        for end in self._ends:
            end.close()
