"""What NBD servers answer, as a guest finds it: in pieces, out of order, or wrong."""

import errno
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from ringblk import Frontend
from ringblk.engine.frontend.request import RequestFailed
from tests.rigs.engine_rig import DEADLINE_S, Engine
from tests.rigs.nbd_server import needs_nbd
from tests.rigs.scripted_nbd import (
    CAN_FLUSH,
    ERROR,
    FLUSH,
    FUA,
    HAS_FLAGS,
    NONE,
    OFFSET_DATA,
    OFFSET_HOLE,
    READ,
    TRIM,
    WRITE,
    ZEROES,
    NbdRequest,
    ScriptedNbd,
    chunk,
    simple,
)

pytestmark = needs_nbd()
BLOCK = 4096
LOOKS = 1
"""Connections before the one that serves the drive (--format=raw: one)."""


def options(server: ScriptedNbd) -> list[str]:
    return [f"--uri={server.uri}", "--format=raw"]


def in_chunks(server: ScriptedNbd, request: NbdRequest, sizes: list[int]) -> bytes:
    """A read's answer, the last chunk first, zeroes as holes."""
    chunks, place = [], request.offset_bytes
    for size in sizes:
        data = bytes(server.disk[place : place + size])
        if data == bytes(size):
            payload = struct.pack(">QI", place, size)
            chunks.append(chunk(request.cookie, OFFSET_HOLE, payload, is_last=False))
        else:
            payload = struct.pack(">Q", place) + data
            chunks.append(chunk(request.cookie, OFFSET_DATA, payload, is_last=False))
        place += size
    return b"".join(reversed(chunks)) + chunk(request.cookie, NONE)


@pytest.mark.parametrize("is_structured", [False, True])
@pytest.mark.parametrize("piece_bytes", [7, 1 << 30])
@pytest.mark.parametrize("size_bytes", [512, 200 << 10])
def test_answers_in_any_pieces(
    tmp_path: Path, is_structured: bool, piece_bytes: int, size_bytes: int
) -> None:
    def answer(request: NbdRequest) -> bytes | None:
        if request.command != READ or not is_structured:
            return None
        first = request.length_bytes // 3
        return in_chunks(server, request, [first, first, request.length_bytes - 2 * first])

    with (
        ScriptedNbd(tmp_path, answer=answer, is_structured=is_structured, piece_bytes=piece_bytes) as server,
        Engine(*options(server)) as engine,
        Frontend(engine.socket_path, request_timeout_s=DEADLINE_S) as disk,
    ):
        third = size_bytes // 3
        content = bytes(range(1, 251)) * (size_bytes // 250 + 1)
        content = content[:third] + bytes(third) + content[2 * third : size_bytes]
        server.disk[512 : 512 + size_bytes] = content
        assert disk.read(512, size_bytes) == content
        disk.write(4096, content)
        assert disk.read(4096, size_bytes) == content
        assert server.disk[4096 : 4096 + size_bytes] == content


def test_a_server_that_can_do_little(tmp_path: Path) -> None:
    """What it cannot do is done otherwise, or left out where that is allowed."""
    with (
        ScriptedNbd(tmp_path, flags=HAS_FLAGS | CAN_FLUSH) as server,
        Engine(*options(server)) as engine,
        Frontend(engine.socket_path, request_timeout_s=DEADLINE_S) as disk,
    ):
        disk.write(0, b"x" * (1 << 18))
        disk.write_zeroes(4096, 100 << 10)
        disk.discard(0, 4096)
        assert server.disk[: 1 << 18] == b"x" * 4096 + bytes(100 << 10) + b"x" * (
            (1 << 18) - 4096 - (100 << 10)
        )
        assert server.count(ZEROES) == server.count(TRIM) == server.count(FLUSH) == 0
        disk.set_write_cache(False)
        disk.write(0, b"y" * 512)
        assert [request.command for request in server.requests[-2:]] == [WRITE, FLUSH]


def test_a_server_that_can_do_all(tmp_path: Path) -> None:
    with (
        ScriptedNbd(tmp_path) as server,
        Engine(*options(server)) as engine,
        Frontend(engine.socket_path, request_timeout_s=DEADLINE_S) as disk,
    ):
        disk.write_zeroes(4096, 8192)
        disk.discard(0, 4096)
        disk.flush()
        assert [request.command for request in server.requests] == [ZEROES, TRIM, FLUSH]
        disk.set_write_cache(False)
        disk.write(0, b"y" * 512)
        assert (server.requests[-1].command, server.requests[-1].flags) == (WRITE, FUA)


WRONG: dict[str, Callable[[NbdRequest], bytes]] = {
    "no number that begins an answer": lambda request: bytes(64),
    "another request's cookie": lambda request: simple(request.cookie + 1),
    "a cookie far out": lambda request: simple(1 << 40),
    "data where none belong": lambda request: chunk(
        request.cookie,
        OFFSET_DATA,
        struct.pack(">Q", request.offset_bytes + request.length_bytes) + b"x" * 512,
    ),
    "more data than were asked for": lambda request: chunk(
        request.cookie, OFFSET_DATA, struct.pack(">Q", request.offset_bytes) + bytes(request.length_bytes + 1)
    ),
    "a hole of no length": lambda request: chunk(
        request.cookie, OFFSET_HOLE, struct.pack(">QI", request.offset_bytes + request.length_bytes, 0)
    ),
    "a kind that there is not": lambda request: chunk(request.cookie, 77, b"x"),
    "an error that says nothing": lambda request: chunk(request.cookie, ERROR, b""),
    "an error of a gigabyte": lambda request: struct.pack(
        ">IHHQI", 0x668E33EF, 1, ERROR, request.cookie, 1 << 30
    ),
}
FAILED: dict[str, Callable[[NbdRequest], bytes]] = {
    "an error": lambda request: simple(request.cookie, errno.EIO),
    "an error in a chunk": lambda request: chunk(
        request.cookie, ERROR, struct.pack(">IH", errno.ENOSPC, 3) + b"why"
    ),
    "an end without data": lambda request: chunk(request.cookie, NONE),
    "half of the data": lambda request: chunk(
        request.cookie,
        OFFSET_DATA,
        struct.pack(">Q", request.offset_bytes) + bytes(request.length_bytes // 2),
    ),
}


@pytest.mark.parametrize("fault", [*WRONG, *FAILED])
def test_a_server_that_is_wrong_costs_the_request(tmp_path: Path, fault: str) -> None:
    wrong = (WRONG | FAILED)[fault]

    def answer(request: NbdRequest) -> bytes | None:
        return wrong(request) if request.offset_bytes == BLOCK else None

    with (
        ScriptedNbd(tmp_path, answer=answer) as server,
        Engine(*options(server)) as engine,
        Frontend(engine.socket_path, request_timeout_s=DEADLINE_S) as disk,
    ):
        server.disk[:BLOCK] = b"r" * BLOCK
        with pytest.raises(RequestFailed, match="IOERR"):
            disk.read(BLOCK, BLOCK)
        assert disk.read(0, BLOCK) == b"r" * BLOCK
        assert (len(server.connections) == LOOKS + 1) == (fault in FAILED)
