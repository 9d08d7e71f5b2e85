"""What an HTTP connection hands to the API, and what it gets back."""

import time
from collections.abc import Callable, Mapping

import msgspec

PHRASES = {
    200: "OK",
    201: "Created",
    204: "No Content",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}
"""The statuses that are answered with, in words (RFC 9110, "Status Codes"; RFC 6585 for 431)."""
JSON = "application/json"
TEXT = "text/plain; charset=utf-8"


class HttpRequest(msgspec.Struct, frozen=True):
    """A request whose body has come."""

    method: str
    target: str
    """The path with its query, still percent-encoded."""
    body: bytes = b""


class HttpAnswer(msgspec.Struct, frozen=True):
    """What is sent back."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: Mapping[str, str] = {}
    """Besides those that every answer has."""
    then: Callable[[], None] | None = None
    """What is to be done once it is sent, or cannot be."""

    @property
    def phrase(self) -> str:
        """The status in words."""
        return PHRASES.get(self.status, "")

    def all_headers(self) -> list[tuple[str, str]]:
        """Those of every answer, and its own."""
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
        fields = [("Date", date)]
        if self.status != 204:  # RFC 9110, "Content-Length": not in an answer that has no body by its status
            fields += [("Content-Type", self.content_type), ("Content-Length", str(len(self.body)))]
        return [*fields, *self.headers.items()]


class ErrorBody(msgspec.Struct, frozen=True):
    """What comes with a status of 400 or more; `field` is empty where no field of the body is at fault."""

    error: str
    field: str = ""


def encode_body(body: object) -> bytes:
    """A body with a line end, for people with curl."""
    return msgspec.json.encode(body) + b"\n"


def error_answer(
    status: int, reason: str, field: str = "", headers: Mapping[str, str] | None = None
) -> HttpAnswer:
    """Every error in the same form: JSON with `error`, and `field` where one is at fault."""
    return HttpAnswer(status, encode_body(ErrorBody(reason, field)), headers=headers or {})
