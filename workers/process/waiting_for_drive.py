"""A process that was forked before there was a drive: it waits to be given one."""

import os
import select
from typing import Any

from ringblk.shm.sync.channel import Channel
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.opening import take_backend
from ringblk.workers.process.messages import OpenDrive


def wait_for_drive(channel: Channel[Any]) -> NativeBackend:
    """The backend that comes with the first message.

    Raises `ChannelClosed`, and `ValueError` where another message comes first.
    """
    while (received := channel.receive()) is None:
        select.select([channel.socket], [], [])
    message, fds = received
    if not isinstance(message, OpenDrive):
        for fd in fds:
            os.close(fd)
        raise ValueError(f"{type(message).__name__} has come before a drive")
    return take_backend(message.storage, fds)
