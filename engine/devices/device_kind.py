"""All that a kind of device is, in one place."""

from collections.abc import Callable

import msgspec

from ringblk.engine.devices.device import MovedState
from ringblk.engine.devices.device_face import DeviceFace
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.requests.drive_requests import DriveRequests


class DeviceKind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of device. Its state of each drive is 64 bytes of the state segment (`kind_state`).

    `make_device` publishes there, parser and executor read there; nobody else knows what they mean.
    """

    name: str
    """At most 15 bytes: how it is found by whoever reads a state segment."""
    operations: tuple[str, ...]
    """What its requests do, in words, from operation 1 on; each at most 23 bytes, 63 of them at most."""
    make_device: Callable[[DriveConfig, NativeBackend], DeviceFace]
    """What the driver is to see. Raises `ProgramError`."""
    request_settings: Callable[[DriveConfig], bytes]
    """What a process of the drive needs to know to handle requests, for `make_requests` there."""
    make_requests: Callable[[bytes, NativeBackend], DriveRequests]
    """In each process of the drive, before it is in its sandbox."""
    moved_state: Callable[[DriveConfig, NativeBackend], MovedState | None] = lambda config, backend: None
    """What goes along with a guest that moves."""
    read_capacity_bytes: Callable[[StateSegment], int] = lambda state: 0
    """The drive's size, from its state segment."""
    kept_capabilities: int = 0
    """Those that its processes cannot do without, a bit each (capabilities(7))."""
    opens_handles: bool = False
    """Whether its processes open files by their handles; and make devices where they make files."""
    system_calls: str = ""
    """What its processes call beyond what all do (`workers/sandbox/syscall_filter.py`), as in syscalls(2)."""
