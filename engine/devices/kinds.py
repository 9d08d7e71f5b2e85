"""The kinds of device that there are, by name."""

from ringblk.engine.devices.block_kind import BLOCK
from ringblk.engine.devices.device_kind import DeviceKind
from ringblk.shm.state.reader import read_kind_name
from ringblk.shm.state.segment import StateSegment

DEFAULT_KIND = BLOCK
_KINDS = {BLOCK.name: BLOCK}


def register_kind(kind: DeviceKind) -> None:
    """Have one more, which no program of this package starts by itself."""
    _KINDS[kind.name] = kind


def kind_named(name: str) -> DeviceKind:
    """The kind of that name, which is known to exist."""
    return _KINDS[name]


def read_capacity_bytes(state: StateSegment) -> int:
    """How large a drive is for its guest; 0 where that is not known of its kind."""
    kind = _KINDS.get(read_kind_name(state))
    return 0 if kind is None else kind.read_capacity_bytes(state)
