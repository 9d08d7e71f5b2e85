"""The control API's HTTP: whatever is sent and however a handler fails, an answer and one line at most."""

import asyncio
import json
import logging
import socket
from pathlib import Path
from typing import Any, cast

import pytest

from ringblk.engine.base.log_format import HumanFormatter
from ringblk.engine.control.engine_control import EngineControl
from ringblk.engine.control.server import serve_control
from tests.rigs.control_client import TIMEOUT_S

HEAD = b"PATCH /drive HTTP/1.1\r\nHost: localhost\r\n"
NO_CHUNK = HEAD + b"Transfer-Encoding: chunked\r\n\r\nsome\r\n"
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
GET_AND_CLOSE = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
HALF_A_BODY = HEAD + b"Content-Length: 50\r\n\r\n{"


class BrokenControl:
    """An engine of which nothing can be said."""

    def describe(self) -> None:
        raise RuntimeError("no such thing")

    drives = None  # nobody asks for them

    async def patch_drive(self, body: object) -> None:
        raise AssertionError(f"{body} was never sent")


def exchange(socket_path: Path, request: bytes, *, hangs_up: bool) -> bytes:
    """What comes back until the server closes the connection."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TIMEOUT_S)
        client.connect(str(socket_path))
        client.sendall(request)
        if hangs_up:
            return b""
        return b"".join(iter(lambda: client.recv(4096), b""))


async def answered(folder: Path, request: bytes, *, hangs_up: bool = False) -> bytes:
    server = await serve_control(cast(EngineControl, BrokenControl()), str(folder / "control.sock"))
    try:
        answer = await asyncio.to_thread(exchange, folder / "control.sock", request, hangs_up=hangs_up)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait_for(asyncio.gather(*tasks), TIMEOUT_S)
    finally:
        await server.close()
    return answer


def status_and_body(answer: bytes) -> tuple[int, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Content-Type: application/json" in head
    return int(head.split()[1]), json.loads(body)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [HumanFormatter().format(record) for record in caplog.records if record.levelno > logging.INFO]


def test_a_body_that_is_not_what_its_header_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    status, body = status_and_body(asyncio.run(answered(tmp_path, NO_CHUNK)))
    assert status == 400
    assert body == {"error": "the body is not what its headers say", "field": ""}
    assert lines(caplog) == []


def test_a_client_that_hangs_up_in_the_middle_of_a_body(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.run(answered(tmp_path, HALF_A_BODY, hangs_up=True))
    assert lines(caplog) == []


def test_what_is_no_http(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    answer = asyncio.run(answered(tmp_path, b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"))
    assert answer.startswith(b"HTTP/1.1 400 ")
    (line,) = lines(caplog)
    assert "the control API was sent no HTTP: " in line
    assert "Traceback" not in line


def test_another_method_is_told_which_there_is(tmp_path: Path) -> None:
    answer = asyncio.run(answered(tmp_path, GET_AND_CLOSE.replace(b"GET / ", b"DELETE /drive ")))
    assert answer.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n")
    assert b"\r\nAllow: PATCH\r\n" in answer
    assert status_and_body(answer)[1]["error"] == "/drive takes PATCH, not DELETE"


def test_a_parameter_that_is_unknown(tmp_path: Path) -> None:
    status, body = status_and_body(
        asyncio.run(answered(tmp_path, GET_AND_CLOSE.replace(b"GET / ", b"GET /?colour=red ")))
    )
    assert (status, body["field"]) == (400, "colour")


def test_a_handler_that_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    status, body = status_and_body(asyncio.run(answered(tmp_path, GET_AND_CLOSE)))
    assert status == 500
    assert body == {"error": "RuntimeError: see the engine's log", "field": ""}
    (line,) = lines(caplog)
    assert "GET / failed" in line
    assert "RuntimeError: no such thing" in line
