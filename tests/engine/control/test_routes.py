"""The table of routes: what a path and a method lead to."""

import pytest

from ringblk.engine.control.http_messages import HttpRequest
from ringblk.engine.control.routes import Call, NoSuchPath, NotAllowed, Route, RouteTable


async def nothing(call: Call) -> None:
    return None


TABLE = RouteTable(
    Route(method=method, path=path, summary="", handler=nothing)
    for method, path in (
        ("GET", "/"),
        ("GET", "/drives"),
        ("GET", "/drives/{id}"),
        ("PUT", "/drives/{id}"),
        ("POST", "/drives/{id}/pause"),
    )
)


@pytest.mark.parametrize(
    ("method", "target", "path", "values", "query"),
    [
        ("GET", "/", "/", {}, {}),
        ("HEAD", "/", "/", {}, {}),
        ("GET", "/?a", "/", {}, {"a": ""}),
        ("GET", "/drives", "/drives", {}, {}),
        ("GET", "http://any.host/drives?a=b", "/drives", {}, {"a": "b"}),
        ("GET", "http://any.host", "/", {}, {}),
        ("PUT", "/drives/vm1", "/drives/{id}", {"id": "vm1"}, {}),
        ("PUT", "/drives/a%2Fb%20c", "/drives/{id}", {"id": "a/b c"}, {}),
        ("PUT", "/drives/%C3%BC%FF%0a", "/drives/{id}", {"id": "ü\ufffd\n"}, {}),
        ("PUT", "/drives/..", "/drives/{id}", {"id": ".."}, {}),
        ("POST", "/drives/a/pause?x=%26&&y", "/drives/{id}/pause", {"id": "a"}, {"x": "&", "y": ""}),
        ("GET", "/dr%69ves", "/drives", {}, {}),
    ],
)  # fmt: skip
def test_what_is_there(method: str, target: str, path: str, values: object, query: object) -> None:
    route, found_values, found_query = TABLE.find(HttpRequest(method, target))
    assert (route.path, found_values, found_query) == (path, values, query)


@pytest.mark.parametrize(
    "target", ["/nothing", "/drives/", "/drives//pause", "/drives/a/b", "//", "*", "", "a:1"]
)
def test_what_is_not_there(target: str) -> None:
    with pytest.raises(NoSuchPath):
        TABLE.find(HttpRequest("GET", target))


@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [("POST", "/", "GET, HEAD"), ("DELETE", "/drives/a", "GET, HEAD, PUT"), ("get", "/drives", "GET, HEAD")],
)
def test_what_is_there_for_others(method: str, target: str, allowed: str) -> None:
    with pytest.raises(NotAllowed) as refused:
        TABLE.find(HttpRequest(method, target))
    assert refused.value.allowed == allowed
