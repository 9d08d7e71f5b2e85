"""Who is at the other end of a connected unix socket, as the kernel noted it (unix(7), SO_PEERCRED).

For who has connected that is whoever called listen(2), for who was connected to whoever called connect(2).
"""

import socket
import struct

_CREDENTIALS = struct.Struct("iII")  # struct ucred


def peer_process_id(connected: socket.socket) -> int | None:
    """Who has made the other end; None: nobody in this process's namespace."""
    return _credentials(connected)[0] or None


def peer_user_id(connected: socket.socket) -> int:
    """Whose process it was."""
    return _credentials(connected)[1]


def _credentials(connected: socket.socket) -> tuple[int, int, int]:
    process_id, user_id, group_id = _CREDENTIALS.unpack(
        connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return process_id, user_id, group_id
