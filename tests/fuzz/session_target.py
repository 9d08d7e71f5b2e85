"""Fuzz target: a stream of vhost-user messages with fds of all kinds, through a whole session.

Session, socket, decoders, ring and region tables are the real ones, over a device that maps what an engine
would map. After each input the session must have ended by itself, have reset its device, left no fd open,
answered in whole replies, and have written few log lines of one line each.
"""

import array
import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from typing import Any

from ringblk.engine.devices.block_device import BlockDevice, BlockDeviceConfig
from ringblk.engine.vhost_user.codes import F_PROTOCOL_FEATURES, FrontendRequest
from ringblk.engine.vhost_user.messages import HEADER_BYTES, decode_header, encode_message, encode_u64
from ringblk.engine.vhost_user.session import PROTOCOL_FEATURES, Session

from .mapping_device import MappingDevice
from .session_input import Begin, Part, SessionInput, open_fd_kinds

NUM_QUEUES = 4
LINES_PER_MESSAGE = 2
LINE_BYTES = 1000


class LineCount(logging.Handler):
    """Checks and counts what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        assert "\n" not in line, "a log line of several"
        assert len(line) <= LINE_BYTES, "a log line that the front end made long"
        assert record.exc_info is None, "a traceback in the log"
        self.count += 1

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        raise


class SessionTarget:
    """Runs sessions one after the other on one event loop."""

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self._fd_kinds = open_fd_kinds()
        self._lines = LineCount()
        logger = logging.getLogger("ringblk")
        logger.propagate = False
        logger.setLevel(logging.INFO)
        logger.addHandler(self._lines)
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._note_failure)
        self._failures: list[dict[str, Any]] = []
        self._loop.run_until_complete(asyncio.sleep(0))  # it opens what it keeps open

    def run(self, data: bytes) -> str:
        """One input from beginning to end; what became of it, in a word."""
        source = SessionInput(data)
        parts = source.parts()
        self._lines.count = 0
        with self._no_fd_left():
            outcome = self._loop.run_until_complete(self._serve(source.begin, parts))
        assert not self._failures, self._failures
        assert self._lines.count <= LINES_PER_MESSAGE * (len(parts) + 2), "more log lines than messages"
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        return outcome

    def _note_failure(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._failures.append(context)

    @contextlib.contextmanager
    def _no_fd_left(self) -> Iterator[None]:
        before = os.listdir("/proc/self/fd")
        yield
        assert os.listdir("/proc/self/fd") == before, "fds are left open"

    async def _serve(self, begin: Begin, parts: list[Part]) -> str:
        frontend, backend = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        device = MappingDevice(BlockDevice(BlockDeviceConfig(capacity_bytes=1 << 20, num_queues=NUM_QUEUES)))
        with frontend:
            frontend.setblocking(False)
            if Begin.NEGOTIATED in begin:
                parts = [*negotiation(device), *parts]
            for part in parts:
                self._send(frontend, part)
            if Begin.HANGS_UP in begin:
                frontend.close()
            else:
                frontend.shutdown(socket.SHUT_WR)
            session = Session(backend, device)
            await session.serve()
            await asyncio.sleep(0)  # what was cancelled ends
            assert device.is_reset, "the device was not reset"
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"tasks are left: {left}"
            return (
                "hung up"
                if Begin.HANGS_UP in begin
                else f"{min(check_replies(frontend, len(parts)), 9)} replies"
            )

    def _send(self, frontend: socket.socket, part: Part) -> None:
        fds = array.array("i", [self._fd_kinds[kind % len(self._fd_kinds)] for kind in part.fd_kinds])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
        frontend.sendmsg([part.data], ancillary)


def negotiation(device: MappingDevice) -> list[Part]:
    """How every front end begins."""
    features = device.device_features | F_PROTOCOL_FEATURES
    return [
        Part(encode_message(FrontendRequest.SET_FEATURES, encode_u64(features))),
        Part(encode_message(FrontendRequest.SET_PROTOCOL_FEATURES, encode_u64(PROTOCOL_FEATURES))),
    ]


def check_replies(frontend: socket.socket, message_count: int) -> int:
    """Read all that came back: whole replies, each with at most one fd. How many there are."""
    data = bytearray()
    while True:
        try:
            fragment, fds, _, _ = socket.recv_fds(frontend, 65536, 8)
        except ConnectionResetError:  # it closed with some of ours unread
            break
        for fd in fds:
            os.close(fd)
        assert len(fds) <= 1
        if not fragment:
            break
        data += fragment
    count = 0
    while data:
        header = decode_header(bytes(data[:HEADER_BYTES]))
        assert header.is_reply
        assert not header.need_reply
        assert len(data) >= HEADER_BYTES + header.payload_bytes, "half a reply"
        del data[: HEADER_BYTES + header.payload_bytes]
        count += 1
    assert count <= message_count, "more replies than messages"
    return count
