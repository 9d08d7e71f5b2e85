"""More descriptors than one message carries, as one: a socket that has them waiting to be read."""

import array
import socket
from collections.abc import Sequence

from ringblk.shm.platform.message_end import message_pair, message_socket
from ringblk.shm.platform.socket_options import CLOSE_ON_EXEC, close_on_exec
from ringblk.shm.sync.channel import MAX_FDS, in_messages

MOST_LOOSE = 200
"""Descriptors that go as they are: a message has others besides."""


def pack_fds(fds: Sequence[int]) -> tuple[list[int], list[int]]:
    """What to send for these, and what of it is to be closed when it was sent. Raises `OSError`."""
    if len(fds) <= MOST_LOOSE:
        return list(fds), []
    sender, receiver = message_pair()
    with sender:
        sender.setblocking(False)
        for few in in_messages(fds):
            sender.sendmsg([b"+"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", few))])
    parcel = receiver.detach()
    return [parcel], [parcel]


def unpack_fds(fds: Sequence[int], count: int) -> list[int]:
    """The `count` descriptors that `pack_fds` was given, of what was received for them. Raises `OSError`."""
    if len(fds) == count or len(fds) != 1:
        return list(fds)
    unpacked: list[int] = []
    # All is said of the socket: who is asked for it is in a sandbox.
    with message_socket(fds[0]) as receiver:
        while len(unpacked) < count:
            data, few, _, _ = socket.recv_fds(receiver, 1, MAX_FDS, CLOSE_ON_EXEC)
            if not data:
                break
            close_on_exec(few)
            unpacked += few
    return unpacked
