"""A client of the control API that says what went wrong in one line."""

import contextlib
import http.client
import socket
from typing import Any
from urllib.parse import quote

import msgspec

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.json_text import NotJson, decode_json
from ringblk.engine.base.program_error import ProgramError


class _State(msgspec.Struct):
    state: str
    size_bytes: int | None = None
    uptime_s: float | None = None
    storage: str = ""
    reason: str = ""
    processes: dict[str, int] = {}
    limits: list[str] = []


class OneDrive(msgspec.Struct):
    """What is relied on of an answer about a drive; an engine of another version may say more."""

    state: _State


class AllDrives(msgspec.Struct):
    """The same of `GET /drives`."""

    drives: dict[str, OneDrive]


class _Snapshot(msgspec.Struct):
    name: str
    made_ns: int
    size_bytes: int
    is_below: bool


class AllSnapshots(msgspec.Struct):
    """The same of `GET /drives/{id}/snapshots`."""

    snapshots: list[_Snapshot]


class _Extent(msgspec.Struct):
    offset: int
    length: int


class Changed(msgspec.Struct):
    """The same of `GET /drives/{id}/changed`."""

    extents: list[_Extent]


GET_ATTEMPTS = 3
"""How often a question is asked that changes nothing: the control plane may be another one meanwhile."""


class HungUp(ProgramError):  # noqa: N818
    """Whoever listens there has hung up: whether it was done what it was asked for, it has not said."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, socket_path: str, timeout_s: float | None) -> None:
        super().__init__("localhost")
        self._socket_path = socket_path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        """Connect to the socket; what is asked for may take as long as the I/O in flight does."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self._timeout_s)
        self.sock.connect(self._socket_path)


class ControlClient:
    """Asks the engine whose control socket stands at a path."""

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        shape: Any = None,
        timeout_s: float | None = None,
    ) -> Any:
        """What the engine answers, decoded, which has this shape; None: it only says that it is done.

        Raises `ProgramError` with the engine's own words where it refuses, and where there is no engine;
        `HungUp` where the engine has gone meanwhile. Without `timeout_s` it waits without an end.
        """
        for _ in range(GET_ATTEMPTS - 1 if method == "GET" else 0):
            with contextlib.suppress(HungUp):
                return self._ask(method, path, body, shape, timeout_s)
        return self._ask(method, path, body, shape, timeout_s)

    def _ask(self, method: str, path: str, body: object, shape: Any, timeout_s: float | None) -> Any:
        data = None if body is None else msgspec.json.encode(body)
        connection = _UnixConnection(self._socket_path, timeout_s)
        try:
            connection.request(method, path, data)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._failure(error) from error
        finally:
            connection.close()
        try:
            if answer.status < 400:
                return _answer_of(shape, text)
            refusal = str(decode_json(text)["error"])  # type: ignore[index]
        except (NotJson, msgspec.ValidationError, KeyError, TypeError) as error:
            raise ProgramError(
                f"--control {self._socket_path}: no control API ({answer.status} {answer.reason})",
                ExitStatus.FAILED,
            ) from error
        raise ProgramError(refusal, ExitStatus.FAILED)

    def _failure(self, error: Exception) -> ProgramError:
        if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
            reason = "no engine listens there"
        elif isinstance(error, (http.client.HTTPException, ConnectionError)):
            reason = "what listens there hangs up, or is no control API"
            if isinstance(error, ConnectionError):  # RemoteDisconnected is one
                return HungUp(f"--control {self._socket_path}: {reason}", ExitStatus.FAILED)
        elif isinstance(error, TimeoutError):
            reason = "no answer"
        else:
            reason = str(getattr(error, "strerror", None) or error)
        return ProgramError(f"--control {self._socket_path}: {reason}", ExitStatus.FAILED)


def _answer_of(shape: Any, text: bytes) -> Any:
    """Raises `NotJson` and `msgspec.ValidationError`."""
    if shape is None:
        return None
    decoded = decode_json(text)
    msgspec.convert(decoded, shape)
    return decoded


def drive_path(name: str) -> str:
    """Where a drive stands, whatever it is called."""
    return f"/drives/{quote(name, safe='')}"
