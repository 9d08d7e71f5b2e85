"""Which request goes where: a table of methods, paths, handlers and the types of what goes in and out."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import msgspec

from ringblk.engine.control.http_messages import JSON, HttpRequest

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")


class Call(msgspec.Struct, frozen=True):
    """A request as its handler gets it."""

    values: Mapping[str, str]
    """What stands in the path, by the names in the route's pattern."""
    query: Mapping[str, str]
    """`?force&size=5`: "force" with nothing, "size" with "5"."""
    body: Any
    """Of the route's `body_type`."""


class Created(msgspec.Struct, frozen=True):
    """What a handler returns for something that was not there before (201)."""

    body: object
    """The answer's, of the route's `answer_type`."""


class Last(msgspec.Struct, frozen=True):
    """What a handler returns for something that is done only when its answer is sent."""

    body: object
    """The answer's, of the route's `answer_type`."""
    then: Callable[[], None]


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One method at one path. HEAD comes with GET."""

    method: str
    path: str
    """Segments; one such as `{id}` stands for anything, and its handler is told what."""
    summary: str
    """What it does, in a line."""
    handler: Callable[[Call], Awaitable[object]]
    """Returns the answer's body, of `answer_type`; bytes are sent as they are. None: there is none (204)."""
    body_type: Any = None
    """None: what is sent as a body is not looked at."""
    answer_type: Any = None
    content_type: str = JSON
    may_create: bool = False
    """Whether it may answer with `Created`."""
    query: tuple[str, ...] = ()
    """The parameters that may be given; others are refused."""

    @property
    def methods(self) -> tuple[str, ...]:
        """Those that it is asked by."""
        return (self.method, "HEAD") if self.method == "GET" else (self.method,)


class NoSuchPath(Exception):  # noqa: N818
    """Nothing is there."""


class NotAllowed(Exception):  # noqa: N818
    """Something is there, for other methods: `allowed`."""

    def __init__(self, allowed: Iterable[str]) -> None:
        super().__init__()
        self.allowed = ", ".join(allowed)


class RouteTable:
    """Finds the route of a request."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)

    def find(self, request: HttpRequest) -> tuple[Route, dict[str, str], dict[str, str]]:
        """The route, what stands in the path, and the query. Raises `NoSuchPath` and `NotAllowed`."""
        path, _, query = _without_host(request.target).partition("?")
        allowed: list[str] = []
        for route in self.routes:
            values = _values(route.path.split("/"), path.split("/"))
            if values is None:
                continue
            if request.method in route.methods:
                return route, values, _parameters(query)
            allowed += route.methods
        if allowed:
            raise NotAllowed(allowed)
        raise NoSuchPath


def _without_host(target: str) -> str:
    """`/path` of `http://host/path`, which clients send to proxies (RFC 9112, "absolute-form")."""
    if target.startswith("/") or "://" not in target:
        return target
    return "/" + target.partition("://")[2].partition("/")[2]


def _values(pattern: list[str], path: list[str]) -> dict[str, str] | None:
    """What stands where the pattern has names; None: the path is another."""
    if len(pattern) != len(path):
        return None
    values: dict[str, str] = {}
    for expected, segment in zip(pattern, path, strict=True):
        if expected.startswith("{") and segment:
            values[expected.strip("{}")] = _decoded(segment)
        elif expected != _decoded(segment):
            return None
    return values


def _parameters(query: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in query.split("&") if part)
    return {_decoded(name): _decoded(value) for name, _, value in pairs}


def _decoded(text: str) -> str:
    """Text without its percent-encoding (RFC 3986); U+FFFD in place of what is not UTF-8."""
    data = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), text.encode())
    return data.decode(errors="replace")
