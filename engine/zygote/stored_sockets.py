"""Sockets in a service manager's descriptor store (sd_pid_notify_with_fds(3)): they outlive all processes.

What is known of a socket is in its name there. A `/` tells these from sockets that the manager listens on for
a drive, whose name it is.
"""

import os
from collections.abc import Iterable

from ringblk.engine.base.service_manager import HandedSocket
from ringblk.engine.zygote.left_sockets import socket_number
from ringblk.engine.zygote.messages import KeepSocket

PREFIX = "ringblk/"
MAX_NAME_BYTES = 255
"""systemd's limit."""
_KINDS = {"listening": True, "waiting": False}


def stored_name(kept: KeepSocket) -> str | None:
    """What the manager is to call it; None: it would take no name that is so long."""
    kind = "listening" if kept.is_listening else "waiting"
    name = f"{PREFIX}{kind}/{kept.identity.hex()}/{kept.device:x}/{kept.inode:x}/{kept.place.hex()}"
    return name if len(name) <= MAX_NAME_BYTES else None


def take_stored(handed: Iterable[HandedSocket]) -> dict[int, KeepSocket]:
    """Those of an engine before this one; what is none of them is closed."""
    found = {}
    for end in handed:
        try:
            kind, _, device, inode, place = end.name.removeprefix(PREFIX).split("/")
            found[end.fd] = KeepSocket(
                socket_number(end.fd), bytes.fromhex(place), int(device, 16), int(inode, 16), _KINDS[kind]
            )
        except (ValueError, KeyError):
            os.close(end.fd)
        except OSError:  # closed meanwhile
            continue
    return found
