"""One client's connection: requests in, answers out, and a bound on how long it may keep anything."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

import h11
import msgspec

from ringblk.engine.control.http_messages import TEXT, HttpAnswer, HttpRequest, error_answer

Answering = Callable[[HttpRequest], Awaitable[HttpAnswer]]
Settling = Callable[["HttpConnection", HttpAnswer], Awaitable[HttpAnswer]]
"""Waits until an answer that is the last one (`HttpAnswer.then`) may be sent, or returns another."""
READ_BYTES = 65536

_log = logging.getLogger(__name__)


class HttpLimits(msgspec.Struct, frozen=True):
    """What a client may take, at the most."""

    connections: int = 32
    """At once; where there are as many, the one that has waited longest for its client makes room."""
    head_bytes: int = 16384
    body_bytes: int = 65536
    idle_s: float = 60.0
    """Before a request begins."""
    head_s: float = 10.0
    """From a request's first byte to the end of its head."""
    body_s: float = 30.0
    answer_s: float = 30.0
    """To read an answer."""
    linger_s: float = 1.0
    """To read an answer to a request that has not come as a whole, and to stop sending the rest."""
    coming_s: float = 5.0
    """For a request that has begun to come before the last answer."""
    settle_s: float = 10.0
    """For requests that are being carried out before the last answer."""


class HttpConnection:
    """Reads one request after the other and sends what `answer` makes of each."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answer: Answering,
        limits: HttpLimits,
        settle: Settling,
    ) -> None:
        self._settle = settle
        self._reader = reader
        self._writer = writer
        self._answer = answer
        self._limits = limits
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)
        self._is_last = False
        self._has_no_body = False
        self.has_ended = False
        self.is_at_work = False
        """Whether a request of it is being carried out; else it waits for its client."""
        self.work = ""
        """The request that is being carried out, or was last."""
        self.is_reading = True
        """Whether the next request has not come yet, or not all of it."""
        self._has_begun = True  # who has just come is about to ask
        self.waits_since_s = time.monotonic()
        writer.transport.set_write_buffer_limits(high=0)  # so that to drain is to have sent it all

    async def serve(self) -> None:
        """Serve until one of both has had enough."""
        try:
            while await self._serve_next():
                await asyncio.sleep(0)  # whoever sends many requests at once lets others go first
        except (ConnectionError, TimeoutError):
            pass
        finally:
            self.abort()

    def abort(self) -> None:
        """End it at once. What was sent can still be read."""
        self.has_ended = True
        self._writer.transport.abort()

    def end(self) -> None:
        """End it, after a request that is being carried out."""
        self._is_last = True
        if not self.is_at_work:
            self.abort()

    def end_soon(self) -> None:
        """End it, after a request that is being carried out, or that has begun to come."""
        self._is_last = True
        if self.is_reading and not self._has_begun:
            self.abort()

    def turn_away(self, answer: HttpAnswer) -> None:
        """Answer before anything was asked, and end."""
        self._is_last = True
        self._writer.write(self._encoded(answer))
        self.abort()

    async def _serve_next(self) -> bool:
        """Serve one request; whether there may be another."""
        answer = await self._read_and_answer()
        self.is_reading = False
        self.waits_since_s = time.monotonic()
        if answer is None:
            return False
        if answer.then is not None:
            answer = await self._settle(self, answer)
        try:
            async with asyncio.timeout(self._limits.answer_s):
                self._writer.write(self._encoded(answer))
                await self._writer.drain()
        finally:
            if answer.then is not None:
                answer.then()
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self.is_reading = True
            self._has_begun = bool(self._http.trailing_data[0])
            return True
        if not self._has_come:
            await self._linger()
        return False

    @property
    def _has_come(self) -> bool:
        """Whether the request that is answered has come as a whole."""
        return self._http.their_state not in (h11.IDLE, h11.SEND_BODY, h11.ERROR)

    async def _read_and_answer(self) -> HttpAnswer | None:
        """None: there is nobody to answer."""
        try:
            head = await self._read_head()
        except h11.RemoteProtocolError as error:
            _log.warning("the control API was sent no HTTP: %s", error)
            return HttpAnswer(error.error_status_hint, f"{error}\n".encode(), TEXT)
        except TimeoutError:
            if self._http.trailing_data[0]:
                return error_answer(408, f"the request's head took longer than {self._limits.head_s:g} s")
            return None
        if head is None:
            return None
        try:
            body = await self._read_body(head)
        except h11.RemoteProtocolError:
            return error_answer(400, "the body is not what its headers say")
        except TimeoutError:
            return error_answer(408, f"the body took longer than {self._limits.body_s:g} s")
        if not isinstance(body, bytes):
            return body
        self.is_at_work, self.is_reading = True, False
        self.work = f"{head.method.decode()} {head.target.decode()}"
        try:
            return await self._answer(HttpRequest(head.method.decode(), head.target.decode(), body))
        finally:
            self.is_at_work = False

    async def _read_head(self) -> h11.Request | None:
        """None: the client has hung up."""
        loop = asyncio.get_running_loop()
        has_begun = bool(self._http.trailing_data[0])
        async with asyncio.timeout(self._limits.head_s if has_begun else self._limits.idle_s) as patience:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                if not await self._receive():
                    return None
                if not has_begun:
                    has_begun = True
                    patience.reschedule(loop.time() + self._limits.head_s)
        if not isinstance(event, h11.Request):
            return None
        self._has_no_body = event.method == b"HEAD"
        return event

    async def _read_body(self, head: h11.Request) -> bytes | HttpAnswer | None:
        """The body; or what is answered instead of reading it; None: the client has hung up."""
        headers = dict(head.headers)
        if (coding := headers.get(b"content-encoding", b"identity").lower()) != b"identity":
            return error_answer(415, f"Content-Encoding {coding.decode(errors='replace')}: send it as it is")
        too_large = error_answer(413, f"the body is larger than {self._limits.body_bytes} bytes")
        if int(headers.get(b"content-length", b"0")) > self._limits.body_bytes:
            return too_large
        if self._http.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
            self._writer.write(self._http.send(go_on))
        body = bytearray()
        async with asyncio.timeout(self._limits.body_s):
            while not isinstance(event := self._http.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    if not await self._receive():
                        return None
                elif isinstance(event, h11.Data):
                    body += event.data
                    if len(body) > self._limits.body_bytes:
                        return too_large
        return bytes(body)

    async def _receive(self) -> bool:
        """Have h11 see what comes next; False: nothing will."""
        data = await self._reader.read(READ_BYTES)
        if data:
            self._has_begun = True
            self._http.receive_data(data)
        return bool(data)

    def _encoded(self, answer: HttpAnswer) -> bytes:
        headers = answer.all_headers()
        if self._is_last or not self._has_come:
            headers.append(("Connection", "close"))
        send = self._http.send
        data = send(h11.Response(status_code=answer.status, headers=headers, reason=answer.phrase))
        if answer.body and not self._has_no_body:
            data += send(h11.Data(data=answer.body))
        return data + send(h11.EndOfMessage())

    async def _linger(self) -> None:
        """Let the client read its answer, though it has not sent all: unread data would break its socket."""
        self._writer.write_eof()
        async with asyncio.timeout(self._limits.linger_s):
            while await self._reader.read(READ_BYTES):
                pass
