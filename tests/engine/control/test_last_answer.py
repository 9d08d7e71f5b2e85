"""What ends the control plane is done when nothing else is being carried out, and its answer is sent.

Fault model: requests that take long, that have come by half, or that want the same at the same time; clients
that connect meanwhile; and what is to be done last cannot be done.
"""

import asyncio
from pathlib import Path

from ringblk.engine.control.http_connection import HttpLimits
from ringblk.engine.control.http_messages import HttpAnswer, HttpRequest
from tests.rigs.control_client import TIMEOUT_S
from tests.rigs.http_rig import GET, Http, post, run

LAST = GET.replace(b"GET /a?b", b"POST /last")
PATIENT = HttpLimits(coming_s=TIMEOUT_S, settle_s=TIMEOUT_S)
HASTY = HttpLimits(coming_s=0.01, settle_s=0.01)


class Work:
    """Requests go on until they are let go; what is done last is noted, and returns."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self.done: list[str] = []
        self.has_begun = asyncio.Event()
        self.may_end = asyncio.Event()
        http.handler = self.answer

    async def answer(self, request: HttpRequest) -> HttpAnswer:
        if request.target == "/last":
            return HttpAnswer(200, b"last", then=lambda: self.done.append("last"))
        self.has_begun.set()
        await self.may_end.wait()
        self.done.append(request.method)
        return await self._http.echo(request)


def test_what_is_being_carried_out_is_answered_before(tmp_path: Path) -> None:
    async def steps(http: Http) -> None:
        work = Work(http)
        busy, idle, last = [await http.connect() for _ in range(3)]
        await busy.send(GET)
        await work.has_begun.wait()
        await idle.send(post(b"by half")[:-1])
        await last.send(LAST)
        while not last_answer_waits(http):
            await asyncio.sleep(0)
        came = await http.connect()
        await came.send(GET)
        await idle.send(b"f")
        work.may_end.set()
        for client in (busy, idle):
            status, headers, _ = await client.answer()
            assert (status, headers["connection"]) == (200, "close")
        assert (await last.answer())[0] == 200
        assert (await came.answer())[0] == 200  # it has returned: others are served again
        assert work.done[:2] in (["GET", "POST"], ["POST", "GET"])
        assert work.done[2:] == ["last", "GET"]

    run(tmp_path, steps, PATIENT)


def last_answer_waits(http: Http) -> bool:
    settlement = http.server._settlement
    return settlement is not None and bool(settlement._others)


def test_what_takes_too_long_is_named_and_goes_on(tmp_path: Path) -> None:
    async def steps(http: Http) -> None:
        work = Work(http)
        busy, last = [await http.connect() for _ in range(2)]
        await busy.send(GET)
        await work.has_begun.wait()
        await last.send(LAST)
        status, _, body = await last.answer()
        assert (status, b"still after 0.01 s: GET /a?b; try again" in body) == (409, True)
        assert work.done == []
        work.may_end.set()
        assert (await busy.answer())[0] == 200
        await last.send(LAST)
        assert (await last.answer())[0] == 200
        assert work.done == ["GET", "last"]

    run(tmp_path, steps, HASTY)


def test_two_that_are_last_are_both_answered(tmp_path: Path) -> None:
    """What both want is done once."""

    async def steps(http: Http) -> None:
        work = Work(http)
        busy, *lasts = [await http.connect() for _ in range(3)]
        await busy.send(GET)
        await work.has_begun.wait()
        for last in lasts:
            await last.send(LAST)
        while not last_answer_waits(http):
            await asyncio.sleep(0)
        work.may_end.set()
        for client in (busy, *lasts):
            assert (await client.answer())[0] == 200
        assert work.done == ["GET", "last"]

    run(tmp_path, steps, PATIENT)


def test_who_says_nothing_is_not_waited_for_long(tmp_path: Path) -> None:
    async def steps(http: Http) -> None:
        work = Work(http)
        work.may_end.set()
        silent, served, last = [await http.connect() for _ in range(3)]
        await served.send(GET)
        await served.answer()
        await last.send(LAST)
        assert (await last.answer())[2] == b"last"
        assert await silent.is_over()
        assert await served.is_over()

    run(tmp_path, steps, HASTY)
