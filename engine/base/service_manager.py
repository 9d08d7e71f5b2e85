"""The service manager that started this process: what it wants to know, and the sockets that it hands over.

systemd's protocols, which others speak as well: sd_notify(3), sd_listen_fds(3). Both are told by environment
variables, which are taken out of the environment: they are meant for this process alone.
"""

import contextlib
import logging
import os
import socket
from array import array
from collections.abc import MutableMapping, Sequence

import msgspec

from ringblk.engine.base.program_start import NOTIFY_VARIABLE

FIRST_FD = 3
"""The first socket that is handed over, SD_LISTEN_FDS_START."""

_log = logging.getLogger(__name__)


class ServiceManager:
    """Is told how things are going; where none wants to know, nothing happens."""

    def __init__(self, address: str | None) -> None:
        """`address` is a unix datagram socket's path, or an abstract name that begins with `@`."""
        self._address = address
        self._status = ""

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> "ServiceManager":
        """The one that NOTIFY_SOCKET names, which is taken out."""
        return cls(environment.pop(NOTIFY_VARIABLE, None))

    @property
    def is_there(self) -> bool:
        """Whether anybody wants to know."""
        return bool(self._address)

    def tell_ready(self, status: str) -> None:
        """Everything is open; what is to be started after this may be. `status` is one line for people."""
        self._status = status
        self._send(f"READY=1\nSTATUS={status}")

    def tell_status(self, status: str) -> None:
        """What is going on, in one line; said where it has changed."""
        if status != self._status:
            self._status = status
            self._send(f"STATUS={status}")

    def tell_stopping(self, status: str) -> None:
        """The end has begun."""
        self._status = status
        self._send(f"STOPPING=1\nSTATUS={status}")

    def store(self, name: str, fd: int) -> None:
        """Have it keep a descriptor for the next process of the service, under this name."""
        self._send(f"FDSTORE=1\nFDNAME={name}", [fd])

    def forget(self, name: str) -> None:
        """What it keeps under this name is of no use any more."""
        self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def _send(self, state: str, fds: Sequence[int] = ()) -> None:
        """One datagram. A manager that does not take it is no reason to stop."""
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.setblocking(False)
                along = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
                end.sendmsg([state.encode(errors="replace")], along, 0, address)
        except OSError as error:
            _log.warning("the service manager cannot be told: %s", error.strerror or error)


class HandedSocket(msgspec.Struct, frozen=True):
    """A socket that the service manager listens on for this process, by the name it has in its unit."""

    name: str
    fd: int


def take_handed_sockets(environment: MutableMapping[str, str]) -> list[HandedSocket]:
    """Those that are meant for this process (LISTEN_PID); their variables are taken out.

    A name is FileDescriptorName= of the socket's unit, or the unit's own; `unknown` where none was said.
    """
    process_id, count, names = (
        environment.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    )
    if process_id != str(os.getpid()):
        return []
    known = names.split(":") if names else []
    sockets = []
    with contextlib.suppress(ValueError):
        for index in range(int(count)):
            fd = FIRST_FD + index
            with contextlib.suppress(OSError):  # closed meanwhile: whoever uses it is told
                os.set_inheritable(fd, False)
            sockets.append(HandedSocket(known[index] if index < len(known) else "unknown", fd))
    return sockets
