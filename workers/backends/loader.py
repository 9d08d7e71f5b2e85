"""Find a backend by name and make it: `--backend=... --backend-arg=key=value`."""

import contextlib
import importlib
import inspect
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ringblk.workers.backends.interface import BackendError, BlockBackend
from ringblk.workers.backends.memory import MemoryBackend
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.null import NullBackend
from ringblk.workers.backends.python import PythonBackend

TRUE_WORDS = ("true", "yes", "on", "1")
FALSE_WORDS = ("false", "no", "off", "0")
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
    factory = BUILT_IN.get(name) or find_factory(name)
    values = convert_arguments(name, factory, arguments)
    try:
        backend = factory(**values)
    except BackendError:
        raise
    except Exception as error:
        raise BackendError(f"backend {name}: {describe(error)}") from error
    try:
        if isinstance(backend, NativeBackend):
            return check_native(backend)
        return PythonBackend(check_backend(backend))
    except BackendError as error:
        close_refused(backend)
        raise BackendError(f"backend {name}: {error}") from error


def find_factory(name: str) -> Callable[..., object]:
    """Import what "package.module:Class" names."""
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise BackendError(f"backend {name}: neither {', '.join(BUILT_IN)} nor package.module:Class")
    with contextlib.suppress(FileNotFoundError):  # the folder has been removed: nothing can be in it
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # last, so that nothing there can stand in for an installed module
    try:
        found: object = importlib.import_module(module_name)
    except Exception as error:
        raise BackendError(f"backend {name}: can't import {module_name}: {describe(error)}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise BackendError(f"backend {name}: {module_name} has no {attribute}")
        found = getattr(found, part)
    if not callable(found):
        raise BackendError(f"backend {name}: {attribute} is no class")
    return found


def convert_arguments(
    name: str, factory: Callable[..., object], arguments: Mapping[str, str]
) -> dict[str, object]:
    """Match the arguments with the constructor's parameters and convert each one."""
    try:
        parameters = inspect.signature(factory, eval_str=True).parameters.values()
    except (ValueError, TypeError, NameError) as error:
        raise BackendError(f"backend {name}: can't tell its arguments: {describe(error)}") from error
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    rest = next((p for p in parameters if p.kind is p.VAR_KEYWORD), None)
    values: dict[str, object] = {}
    for key, text in arguments.items():
        parameter = named.get(key, rest)
        if parameter is None:
            raise BackendError(f"backend {name}: no argument {key} (it has {', '.join(named) or 'none'})")
        try:
            values[key] = convert(text, parameter.annotation)
        except ValueError as error:
            raise BackendError(f"backend {name}: argument {key}={text}: {error}") from error
    for key, parameter in named.items():
        if key not in values and parameter.default is parameter.empty:
            raise BackendError(f"backend {name}: argument {key} is missing")
    return values


def convert(text: str, annotation: Any) -> object:
    """Turn an argument's text into what its annotation asks for; ValueError if that can't be done."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        annotation = next(kind for kind in typing.get_args(annotation) if kind is not types.NoneType)
    if annotation is bool:
        if text.lower() not in TRUE_WORDS + FALSE_WORDS:
            raise ValueError("not true or false")
        return text.lower() in TRUE_WORDS
    if annotation is int:
        try:
            return int(text, 0)
        except ValueError:
            raise ValueError("not an integer") from None
    if annotation is float:
        try:
            return float(text)
        except ValueError:
            raise ValueError("not a number") from None
    if annotation in (Path, os.PathLike):
        return Path(text)
    if annotation in (str, inspect.Parameter.empty, Any, object):
        return text
    raise ValueError(f"can't be given as text: it is a {getattr(annotation, '__name__', annotation)}")


def check_native(backend: NativeBackend) -> NativeBackend:
    """Give a compiled backend back; BackendError where its class has methods that nothing would call."""
    for method in NATIVE_METHODS:
        if inspect.isfunction(inspect.getattr_static(backend, method)):
            raise BackendError(f"{method} would never be called: what it is made from is compiled")
    return backend


def check_backend(backend: object) -> BlockBackend:
    """Give the object back; BackendError names which method is missing or can't be called as it will be."""
    if inspect.iscoroutine(backend):
        raise BackendError("is made by `async def`, which nothing waits for")
    for method in REQUIRED_METHODS:
        if read_method(backend, method) is None:
            raise BackendError(f"has no method {method}")
    for method, arguments in {**REQUIRED_METHODS, **OPTIONAL_METHODS}.items():
        found = read_method(backend, method)
        if found is None:
            continue
        if not callable(found):
            raise BackendError(f"{method} is no method")
        check_call(method, found, arguments)
    return typing.cast("BlockBackend", backend)


def read_method(backend: object, name: str) -> object:
    """The attribute of that name; None where there is none."""
    missing = object()
    try:
        found: object = getattr(backend, name, missing)
    except Exception as error:  # a property's
        raise BackendError(f"{name} can't be read: {describe(error)}") from error
    if found is None and name in OPTIONAL_METHODS:
        raise BackendError(f"{name} is no method")
    return None if found is missing else found


def check_call(name: str, method: Callable[..., object], arguments: tuple[str, ...]) -> None:
    """BackendError for a method that only begins when it is called, or does not take these arguments."""
    for called in (method, inspect.getattr_static(type(method), "__call__", None)):
        if inspect.iscoroutinefunction(called):
            raise BackendError(f"{name} is `async def`, which nothing waits for: make it a plain method")
        if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
            raise BackendError(f"{name} has a `yield` in it, so a call does nothing: make it a plain method")
    try:
        inspect.signature(method).bind(*arguments)
    except ValueError:
        return  # a compiled one that does not tell
    except TypeError as error:
        raise BackendError(f"{name} can't be called as {name}({', '.join(arguments)}): {error}") from error


def close_refused(backend: object) -> None:
    """An object that was made and is refused lets go of what it has opened, if it can."""
    close = getattr(backend, "close", None)
    if callable(close) and not inspect.iscoroutinefunction(close):
        with contextlib.suppress(Exception):
            close()


def describe(error: BaseException) -> str:
    """An exception on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
