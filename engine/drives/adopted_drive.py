"""A drive that serves a front end, of a control plane that has died."""

import socket

import msgspec

from ringblk.engine.devices.device import Device
from ringblk.engine.drives.kept_drive import KeptDrive
from ringblk.engine.supervisor.kept_parts import AdoptedParts
from ringblk.engine.supervisor.kept_processes import AdoptedProcesses
from ringblk.engine.vhost_user.session import Session
from ringblk.engine.vhost_user.session_keeper import SessionKeeper
from ringblk.shm.state.segment import StateSegment


class AdoptedDrive(msgspec.Struct, frozen=True, kw_only=True):
    """What a `Drive` goes on from."""

    kept: KeptDrive
    processes: AdoptedProcesses
    parts: AdoptedParts
    state: StateSegment

    def resume_session(self, device: Device, keeper: SessionKeeper) -> tuple[Session, socket.socket]:
        """The session where it was, and its connection. Raises `AdoptionFailed` and `OSError`."""
        kept = self.kept.session
        fds = {handle: self.parts.take(handle) for handle in kept.handles()}
        connected = socket.socket(fileno=fds.pop(kept.connection))
        return Session.resume(connected, device, keeper, kept, fds), connected
