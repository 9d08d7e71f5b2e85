"""Who is at the other end of a connected unix socket, as the kernel noted it.

For who has connected that is whoever called listen(2), for who was connected to whoever called connect(2).
Linux has both in one option (unix(7), SO_PEERCRED), macOS in two (LOCAL_PEERPID, LOCAL_PEERCRED).
"""

import socket
import struct
import sys

_CREDENTIALS = struct.Struct("iII")  # struct ucred: process, user, group
_SOL_LOCAL, _LOCAL_PEERCRED, _LOCAL_PEERPID = 0, 1, 2  # macOS, sys/un.h
_XUCRED = struct.Struct("II")  # the beginning of struct xucred: version, user
_XUCRED_BYTES = 76


def peer_process_id(connected: socket.socket) -> int | None:
    """Who has made the other end; None: nobody in this process's namespace."""
    if sys.platform == "linux":
        found = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return int(_CREDENTIALS.unpack(found)[0]) or None
    return connected.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID) or None


def peer_user_id(connected: socket.socket) -> int:
    """Whose process it was."""
    if sys.platform == "linux":
        found = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return int(_CREDENTIALS.unpack(found)[1])
    found = connected.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES)
    return int(_XUCRED.unpack_from(found)[1])
