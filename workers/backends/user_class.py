"""A class of a user's own, by name: found, its arguments converted, its methods looked at.

`subject` is what messages begin with: which option's class it is.
"""

import contextlib
import importlib
import inspect
import os
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from ringblk.workers.backends.interface import BackendError

TRUE_WORDS = ("true", "yes", "on", "1")
FALSE_WORDS = ("false", "no", "off", "0")


def find_factory(subject: str, name: str, others: str = "") -> Callable[..., object]:
    """Import what "package.module:Class" names."""
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        form = (
            f"neither {others} nor package.module:Class" if others else "not of the form package.module:Class"
        )
        raise BackendError(f"{subject}: {form}")
    with contextlib.suppress(FileNotFoundError):  # the folder has been removed: nothing can be in it
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # last, so that nothing there can stand in for an installed module
    try:
        found: object = importlib.import_module(module_name)
    except Exception as error:
        raise BackendError(f"{subject}: can't import {module_name}: {describe(error)}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise BackendError(f"{subject}: {module_name} has no {attribute}")
        found = getattr(found, part)
    if not callable(found):
        raise BackendError(f"{subject}: {attribute} is no class")
    return found


def convert_arguments(
    subject: str, factory: Callable[..., object], arguments: Mapping[str, str]
) -> dict[str, object]:
    """Match the arguments with the constructor's parameters and convert each one."""
    try:
        parameters = inspect.signature(factory, eval_str=True).parameters.values()
    except (ValueError, TypeError, NameError) as error:
        raise BackendError(f"{subject}: can't tell its arguments: {describe(error)}") from error
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    rest = next((p for p in parameters if p.kind is p.VAR_KEYWORD), None)
    values: dict[str, object] = {}
    for key, text in arguments.items():
        parameter = named.get(key, rest)
        if parameter is None:
            raise BackendError(f"{subject}: no argument {key} (it has {', '.join(named) or 'none'})")
        try:
            values[key] = convert(text, parameter.annotation)
        except ValueError as error:
            raise BackendError(f"{subject}: argument {key}={text}: {error}") from error
    for key, parameter in named.items():
        if key not in values and parameter.default is parameter.empty:
            raise BackendError(f"{subject}: argument {key} is missing")
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


def make_object(subject: str, factory: Callable[..., object], arguments: Mapping[str, str]) -> object:
    """What the factory makes of these arguments. Raises `BackendError`, its own as they are."""
    values = convert_arguments(subject, factory, arguments)
    try:
        return factory(**values)
    except BackendError:
        raise
    except Exception as error:
        raise BackendError(f"{subject}: {describe(error)}") from error


def check_methods(
    found: object,
    required: Mapping[str, tuple[str, ...]],
    optional: Mapping[str, tuple[str, ...]],
    iterated: Collection[str] = (),
) -> None:
    """BackendError names which method is missing or can't be called as it will be, with these arguments.

    What those of `iterated` return is gone through, so they may be generators.
    """
    if inspect.iscoroutine(found):
        raise BackendError("is made by `async def`, which nothing waits for")
    for method in required:
        if read_method(found, method) is None:
            raise BackendError(f"has no method {method}")
    for method, arguments in {**required, **optional}.items():
        value = read_method(found, method)
        if value is None:
            if method in optional and hasattr(found, method):
                raise BackendError(f"{method} is no method")
            continue
        if not callable(value):
            raise BackendError(f"{method} is no method")
        check_call(method, value, arguments, may_yield=method in iterated)


def read_method(backend: object, name: str) -> object:
    """The attribute of that name; None where there is none."""
    missing = object()
    try:
        found: object = getattr(backend, name, missing)
    except Exception as error:  # a property's
        raise BackendError(f"{name} can't be read: {describe(error)}") from error
    return None if found is missing else found


def check_call(
    name: str, method: Callable[..., object], arguments: tuple[str, ...], *, may_yield: bool = False
) -> None:
    """BackendError for a method that only begins when it is called, or does not take these arguments."""
    for called in (method, inspect.getattr_static(type(method), "__call__", None)):
        if inspect.iscoroutinefunction(called):
            raise BackendError(f"{name} is `async def`, which nothing waits for: make it a plain method")
        if inspect.isasyncgenfunction(called) or (inspect.isgeneratorfunction(called) and not may_yield):
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
