"""HTTP on a socket: what a client may ask, how long it may take, and how little it harms others."""

import asyncio
import contextlib
import gc
import json
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from ringblk.engine.control.http_connection import HttpLimits
from ringblk.engine.control.http_messages import HttpAnswer, HttpRequest
from tests.rigs.http_rig import AT_ONCE, GET, SMALL, Http, post, run, serving


def error_of(body: bytes) -> Any:
    return json.loads(body)["error"]


# What is answered.


def test_one_request_after_the_other(tmp_path: Path) -> None:
    async def steps(http: Http) -> None:
        client = await http.connect()
        for body in (b"1", b"", b"22"):
            await client.send(post(body))
            assert (await client.answer())[2] == msgspec.json.encode(["POST", "/", body.decode()])

    run(tmp_path, steps)


def test_requests_that_come_together(tmp_path: Path) -> None:
    async def steps(http: Http) -> None:
        client = await http.connect()
        await client.send(GET + post(b"x") + GET)
        assert [json.loads((await client.answer())[2])[0] for _ in range(3)] == ["GET", "POST", "GET"]

    run(tmp_path, steps)


def test_a_request_byte_by_byte(tmp_path: Path) -> None:
    async def steps(http: Http) -> None:
        client = await http.connect()
        for number in post(b"body"):
            await client.send(bytes([number]))
            await asyncio.sleep(0)
        assert json.loads((await client.answer())[2]) == ["POST", "/", "body"]

    run(tmp_path, steps)


def test_head_has_the_headers_of_get(tmp_path: Path) -> None:
    async def steps(http: Http) -> None:
        client = await http.connect()
        await client.send(GET.replace(b"GET", b"HEAD"))
        status, headers, _ = await client.answer(has_body=False)
        assert (status, headers["content-length"]) == (200, str(len('["HEAD","/a?b",""]')))
        await client.send(GET)  # nothing stands between
        assert (await client.answer())[2] == b'["GET","/a?b",""]'

    run(tmp_path, steps)


def test_an_answer_without_a_body(tmp_path: Path) -> None:
    async def nothing(request: HttpRequest) -> HttpAnswer:
        return HttpAnswer(204)

    async def steps(http: Http) -> None:
        http.handler = nothing
        client = await http.connect()
        await client.send(GET + GET)
        for _ in range(2):
            status, headers, _ = await client.answer()
            assert status == 204
            assert not {"content-length", "content-type", "transfer-encoding"} & headers.keys()

    run(tmp_path, steps)


def test_who_wants_to_close_is_closed(tmp_path: Path) -> None:
    async def steps(http: Http) -> None:
        for request in (
            GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
            b"GET /a?b HTTP/1.0\r\n\r\n",
        ):
            client = await http.connect()
            await client.send(request)
            status, headers, _ = await client.answer()
            assert (status, headers["connection"]) == (200, "close")
            assert await client.is_over()

    run(tmp_path, steps)


def test_who_has_sent_all_and_says_so_is_answered(tmp_path: Path) -> None:
    async def steps(http: Http) -> None:
        client = await http.connect()
        client.writer.write(GET)
        client.writer.write_eof()
        assert (await client.answer())[0] == 200
        assert await client.is_over()

    run(tmp_path, steps)


def test_who_asks_whether_to_send_a_body_is_told(tmp_path: Path) -> None:
    async def steps(http: Http) -> None:
        client = await http.connect()
        head, _, body = post(b"body", "Expect: 100-continue").partition(b"\r\n\r\n")
        await client.send(head + b"\r\n\r\n")
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(body)
        assert json.loads((await client.answer())[2])[2] == "body"

    run(tmp_path, steps)


# What is too large, or nothing that is known.


def test_a_body_of_the_largest_size(tmp_path: Path) -> None:
    async def steps(http: Http) -> None:
        client = await http.connect()
        await client.send(post(b"x" * 100))
        assert (await client.answer())[0] == 200

    run(tmp_path, steps)


def test_a_body_that_is_too_large_is_not_waited_for(tmp_path: Path) -> None:
    async def steps(http: Http) -> None:
        for request in (
            post(b"", "Expect: 100-continue").replace(b"Length: 0", b"Length: 101"),
            post(b"").replace(b"Length: 0", b"Length: 99999999999999999999"),
            post(b"x" * (1 << 20)),  # more than the socket takes: to be read, or its sender would not hear
            post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"65\r\n" + b"x" * 0x65,
        ):
            client = await http.connect()
            await client.send(request)
            status, headers, body = await client.answer()
            assert (status, headers["connection"]) == (413, "close")
            assert error_of(body) == "the body is larger than 100 bytes"
            client.writer.close()

    run(tmp_path, steps)


def test_a_body_that_is_packed(tmp_path: Path) -> None:
    async def steps(http: Http) -> None:
        client = await http.connect()
        await client.send(post(b"abc", "Content-Encoding: GZIP"))
        status, _, body = await client.answer()
        assert (status, error_of(body)) == (415, "Content-Encoding gzip: send it as it is")

    run(tmp_path, steps)


def test_what_is_no_http(tmp_path: Path) -> None:
    async def steps(http: Http) -> None:
        for request, expected in (
            (b"\x16\x03\x01\x02\0\x01\0\r\n\r\n", 400),  # TLS
            (b"GET / HTTP/1.1\r\n\r\n", 400),  # no host
            (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
            (b"GET / HTTP/1.1\r\nHost: x\r\nLong: " + b"x" * 1000, 431),
        ):
            client = await http.connect()
            await client.send(request)
            status, headers, _ = await client.answer()
            assert (status, headers["connection"]) == (expected, "close")
            assert headers["content-type"].startswith("text/plain")
            client.writer.close()

    run(tmp_path, steps)


# Who is slow, or one too many.


def test_who_says_nothing_is_hung_up_on(tmp_path: Path) -> None:
    async def steps(http: Http) -> None:
        assert await (await http.connect()).is_over()

    run(tmp_path, steps, AT_ONCE)


def test_half_a_head_and_half_a_body_are_not_waited_for(tmp_path: Path) -> None:
    async def steps(http: Http) -> None:
        for half, word in ((GET[:-2], "head"), (post(b"body")[:-1], "body")):
            client = await http.connect()
            await client.send(half)
            status, _, body = await client.answer()
            assert status == 408
            assert word in error_of(body)
            assert await client.is_over()

    run(tmp_path, steps, AT_ONCE)


def test_who_does_not_read_is_hung_up_on(tmp_path: Path) -> None:
    async def large(request: HttpRequest) -> HttpAnswer:
        return HttpAnswer(200, bytes(10 << 20))

    async def steps(http: Http) -> None:
        http.handler = large
        client = await http.connect()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(GET)
        while len(asyncio.all_tasks()) > 1:  # the connection's own
            await asyncio.sleep(0)

    run(tmp_path, steps, AT_ONCE)


def test_who_has_waited_longest_makes_room(tmp_path: Path) -> None:
    async def steps(http: Http) -> None:
        first, second = await http.connect(), await http.connect()
        for client in (second, first):  # now the second has waited longer
            await client.send(GET)
            assert (await client.answer())[0] == 200
        third = await http.connect()
        assert await second.is_over()
        for client in (first, third):
            await client.send(GET)
            assert (await client.answer())[0] == 200

    run(tmp_path, steps, HttpLimits(connections=2))


def test_nobody_makes_room_whose_request_is_carried_out(tmp_path: Path) -> None:
    asked, may_end = asyncio.Event(), asyncio.Event()

    async def wait(request: HttpRequest) -> HttpAnswer:
        asked.set()
        await may_end.wait()
        return HttpAnswer(200)

    async def steps(http: Http) -> None:
        http.handler = wait
        first = await http.connect()
        await first.send(GET)
        await asked.wait()
        second = await http.connect()
        status, headers, body = await second.answer()
        assert (status, headers["connection"]) == (503, "close")
        assert error_of(body) == "1 requests are being carried out"
        assert await second.is_over()
        may_end.set()
        assert (await first.answer())[0] == 200

    run(tmp_path, steps, HttpLimits(connections=1))


def test_who_sends_without_end_keeps_nobody_waiting(tmp_path: Path) -> None:
    async def steps(http: Http) -> None:
        greedy, other = await http.connect(), await http.connect()
        greedy.writer.write(GET * 2000)
        await other.send(GET)
        count = 0
        answers = asyncio.create_task(other.answer())
        while not answers.done():
            await greedy.answer()
            count += 1
        assert count < 100

    run(tmp_path, steps)


def test_a_request_that_is_carried_out_ends_before_the_server(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def wait(request: HttpRequest) -> HttpAnswer:
        asked.set()
        await asyncio.sleep(0)
        return HttpAnswer(200)

    async def all_steps() -> None:
        async with serving(tmp_path, SMALL) as http:
            http.handler = wait
            asking, idle = await http.connect(), await http.connect()
            await asking.send(GET)
            await asked.wait()
        status, headers, _ = await asking.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert await idle.is_over()

    asyncio.run(all_steps())


PIECES = [
    GET,
    post(b"x"),
    b"GET / HTTP/1.1\r\n",
    b"POST / HTTP/1.0\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n",
    b"Host: x\r\n",
    b"Content-Length: 3\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: upgrade\r\nUpgrade: h2c\r\n",
    b"Content-Encoding: gzip\r\n",
    b"\r\n",
    b"3\r\nabc\r\n",
    b"0\r\n\r\n",
    b"x" * 2000,
    b"\0\xff",
]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), max_size=8))
def test_whatever_is_sent_the_connection_ends_and_nothing_fails(pieces: list[bytes]) -> None:
    failures: list[dict[str, Any]] = []

    async def all_steps(folder: Path) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        async with serving(folder, SMALL) as http:
            client = await http.connect()
            with contextlib.suppress(ConnectionError):  # it may have hung up already
                for piece in pieces:
                    await client.send(piece)
                client.writer.write_eof()
            answers = await client.reader.read()
            assert answers == b"" or answers.startswith(b"HTTP/1.1 ")
            client.writer.close()
        gc.collect()  # a task whose error nobody took says so

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(all_steps(Path(folder)))
    assert failures == []
