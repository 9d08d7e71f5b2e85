"""Find a backend by name and make it: `--backend=... --backend-arg=key=value`."""

import inspect
import typing
from collections.abc import Callable, Mapping

from ringblk.workers.backends.interface import BackendError, BlockBackend
from ringblk.workers.backends.memory import MemoryBackend
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.null import NullBackend
from ringblk.workers.backends.python import PythonBackend
from ringblk.workers.backends.user_class import check_methods, close_refused, find_factory, make_object

REQUIRED_METHODS: Mapping[str, tuple[str, ...]] = {
    "read_at": ("offset_bytes", "buffer"),
    "write_at": ("offset_bytes", "buffer"),
    "flush": (),
}
"""By name, with what they are called with."""
OPTIONAL_METHODS: Mapping[str, tuple[str, ...]] = {
    "discard": ("offset_bytes", "size_bytes"),
    "write_zeroes": ("offset_bytes", "size_bytes"),
    "start_worker": (),
    "close": (),
}
NATIVE_METHODS = ("read_at", "write_at", "flush", "discard", "write_zeroes", "resize", "measure")
"""What a compiled backend carries out itself: a class made from it can't put its own in their place."""


def make_memory_backend(size_bytes: int) -> MemoryBackend:
    """`--backend=memory`. (A compiled constructor has no annotations to convert by.)"""
    return MemoryBackend(size_bytes)


def make_null_backend(size_bytes: int) -> NullBackend:
    """`--backend=null`."""
    return NullBackend(size_bytes)


BUILT_IN: Mapping[str, Callable[..., NativeBackend]] = {
    "memory": make_memory_backend,
    "null": make_null_backend,
}


def load_backend(name: str, arguments: Mapping[str, str]) -> NativeBackend:
    """Make the backend `name`, ready for the workers.

    `name` is "memory", "null" or "package.module:Class" (any callable that gives a BlockBackend will do);
    modules are also looked for in the current directory. Arguments are converted by the constructor's
    annotations: int, bool, float, str, Path, or one of them or None. BackendError says what is wrong.
    """
    subject = f"backend {name}"
    factory = BUILT_IN.get(name) or find_factory(subject, name, ", ".join(BUILT_IN))
    backend = make_object(subject, factory, arguments)
    try:
        if isinstance(backend, NativeBackend):
            return check_native(backend)
        return PythonBackend(check_backend(backend))
    except BackendError as error:
        close_refused(backend)
        raise BackendError(f"{subject}: {error}") from error


def check_native(backend: NativeBackend) -> NativeBackend:
    """Give a compiled backend back; BackendError where its class has methods that nothing would call."""
    for method in NATIVE_METHODS:
        if inspect.isfunction(inspect.getattr_static(backend, method)):
            raise BackendError(f"{method} would never be called: what it is made from is compiled")
    return backend


def check_backend(backend: object) -> BlockBackend:
    """Give the object back; BackendError names which method is missing or can't be called as it will be."""
    check_methods(backend, REQUIRED_METHODS, OPTIONAL_METHODS)
    return typing.cast("BlockBackend", backend)
