"""ringblk: a virtio block backend as a family of processes over shared memory."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ringblk.engine.frontend.backend import engine_command
    from ringblk.engine.frontend.buffer import Buffer
    from ringblk.engine.frontend.frontend import Frontend
    from ringblk.engine.frontend.request import (
        BackendGone,
        BackendRefused,
        Completion,
        RequestFailed,
    )
    from ringblk.shm.queues.driver_virtqueue import DeviceBroken, QueueFull
    from ringblk.workers.block.protocol import RequestStatus, RequestType
    from ringblk.workers.fs.file_system import Attributes, Caller, Changes, StatFs

    __version__: str

__all__ = [
    "Attributes",
    "BackendGone",
    "BackendRefused",
    "Buffer",
    "Caller",
    "Changes",
    "Completion",
    "DeviceBroken",
    "Frontend",
    "QueueFull",
    "RequestFailed",
    "RequestStatus",
    "RequestType",
    "StatFs",
    "engine_command",
]

_MODULES = {
    **dict.fromkeys(("Attributes", "Caller", "Changes", "StatFs"), "ringblk.workers.fs.file_system"),
    "Buffer": "ringblk.engine.frontend.buffer",
    "DeviceBroken": "ringblk.shm.queues.driver_virtqueue",
    "Frontend": "ringblk.engine.frontend.frontend",
    "QueueFull": "ringblk.shm.queues.driver_virtqueue",
    "RequestStatus": "ringblk.workers.block.protocol",
    "RequestType": "ringblk.workers.block.protocol",
    "engine_command": "ringblk.engine.frontend.backend",
}


def __getattr__(name: str) -> object:
    # Looked up when first asked for, so that the engine starts without the front end.
    if name == "__version__":
        from ringblk.engine.base.version import VERSION

        return VERSION
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, "ringblk.engine.frontend.request")), name)


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__", *(name for name in globals() if name.startswith("__"))})
