"""The kinds of device that there are, by name."""

import importlib

from ringblk.engine.devices.device_kind import DeviceKind
from ringblk.shm.state.reader import read_kind_name
from ringblk.shm.state.segment import StateSegment

DEFAULT_KIND = "block"
_MODULES = {"block": "ringblk.engine.devices.block_kind", "fs": "ringblk.engine.devices.fs_kind"}
"""Where the `KIND` of each name is. Who has drives of one kind has no use for the others."""
_KINDS: dict[str, DeviceKind] = {}


def register_kind(kind: DeviceKind) -> None:
    """Have one more, which no program of this package starts by itself."""
    _KINDS[kind.name] = kind


def kind_named(name: str) -> DeviceKind:
    """The kind of that name, which is known to exist; it is imported."""
    if name not in _KINDS:
        register_kind(importlib.import_module(_MODULES[name]).KIND)
    return _KINDS[name]


def read_capacity_bytes(state: StateSegment) -> int:
    """How large a drive is for its guest; 0 where that is not known of its kind."""
    name = read_kind_name(state)
    return kind_named(name).read_capacity_bytes(state) if name in {*_MODULES, *_KINDS} else 0
