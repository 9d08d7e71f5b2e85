"""What a front end sends in one session, by a seed: messages of all kinds, some of which are refused."""

import contextlib
import os
import random
import socket
from collections.abc import Iterator

import msgspec

from ringblk.engine.devices.features import F_EVENT_IDX, F_VERSION_1
from ringblk.engine.vhost_user.codes import F_LOG_ALL, F_PROTOCOL_FEATURES, FrontendRequest
from ringblk.engine.vhost_user.messages import (
    ConfigSpace,
    InflightDescription,
    LogDescription,
    Payload,
    VringFd,
    VringState,
    encode_message,
)
from ringblk.engine.vhost_user.request_rules import OWN_REPLY
from ringblk.engine.vhost_user.session import PROTOCOL_FEATURES
from ringblk.shm.memory.region import MemoryRegion
from tests.rigs.vhost_user_client import encode, ring_address

QUEUES = 4
FEATURES = F_VERSION_1 | F_EVENT_IDX | F_PROTOCOL_FEATURES
Request = FrontendRequest


class Message(msgspec.Struct, frozen=True):
    """Its bytes, the descriptors that go with the first of them, and whether there is a reply."""

    data: bytes
    fds: tuple[int, ...]
    has_reply: bool


class Script:
    """The messages of one session; owns what it hands over, and the front end's end of the channel."""

    def __init__(self, seed: int, length: int) -> None:
        self._random = random.Random(seed)
        self._owned = contextlib.ExitStack()
        self.channel, theirs = (self._owned.enter_context(end) for end in socket.socketpair())
        self.messages = [
            message(Request.SET_OWNER),
            message(Request.SET_FEATURES, FEATURES),
            message(Request.SET_PROTOCOL_FEATURES, PROTOCOL_FEATURES),
            message(Request.SET_BACKEND_REQ_FD, None, theirs.fileno(), need_reply=True),
        ]
        choices = [self._ring, self._ring, self._start, self._memory, self._log, self._config, self._device]
        while len(self.messages) < length:
            self.messages += self._random.choice(choices)()
        # Told of at least once, whatever was chosen.
        self.messages.append(message(Request.SET_CONFIG, ConfigSpace(32, 0, b"\1"), need_reply=True))
        self.messages.append(message(Request.GET_FEATURES))

    def _fd(self, make: str) -> int:
        fd = os.eventfd(0) if make == "eventfd" else os.memfd_create(make)
        self._owned.callback(os.close, fd)
        return fd

    def _start(self) -> Iterator[Message]:
        """All that a ring needs."""
        queue = self._random.randrange(QUEUES)
        yield message(Request.SET_VRING_NUM, VringState(queue, 128), need_reply=True)
        yield message(Request.SET_VRING_BASE, VringState(queue, 5), need_reply=True)
        yield message(Request.SET_VRING_ADDR, ring_address(queue), need_reply=True)
        for request in (Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR):
            yield message(request, VringFd(queue, True), self._fd("eventfd"))
        yield message(Request.SET_VRING_ENABLE, VringState(queue, 1), need_reply=True)

    def _ring(self) -> Iterator[Message]:
        """One change of a ring, which may not exist."""
        queue = self._random.randrange(QUEUES + 1)
        enable = VringState(queue, self._random.randrange(3))
        log = msgspec.structs.replace(ring_address(queue), flags=self._random.randrange(2))
        yield self._random.choice(
            [
                message(Request.GET_VRING_BASE, VringState(queue % QUEUES, 0)),
                message(Request.SET_VRING_ENABLE, enable, need_reply=True),
                message(Request.SET_VRING_ADDR, log, need_reply=True),
                message(Request.SET_VRING_CALL, VringFd(queue, False), need_reply=True),
                message(Request.SET_VRING_CALL, VringFd(queue, True), self._fd("eventfd"), need_reply=True),
                message(Request.SET_VRING_KICK, VringFd(queue, True), self._fd("eventfd"), need_reply=True),
                message(Request.SET_VRING_ERR, VringFd(queue, True), self._fd("no eventfd"), need_reply=True),
            ]
        )

    def _memory(self) -> Iterator[Message]:
        """Regions that come and go."""
        place = self._random.randrange(6) << 16
        region = MemoryRegion(place, 0x10000, 0x7F0000000000 + place, 0)
        other = MemoryRegion(1 << 32, 0x10000, 0x7F8000000000, 0)
        request = self._random.choice((Request.ADD_MEM_REG, Request.REM_MEM_REG, Request.SET_MEM_TABLE))
        if request == Request.ADD_MEM_REG:
            yield message(request, region, self._fd("memory"), need_reply=True)
        elif request == Request.REM_MEM_REG:
            yield message(request, region, need_reply=True)
        else:
            fds = (self._fd("memory"), self._fd("memory"))
            yield message(request, (region, other), *fds, need_reply=self._random.random() < 0.5)

    def _log(self) -> Iterator[Message]:
        """A dirty log, or in-flight regions."""
        log = LogDescription(8192, 0)
        inflight = InflightDescription(8192, 0, 2, 64)
        yield self._random.choice(
            [
                message(Request.SET_LOG_BASE, log, self._fd("log"), need_reply=True),
                message(Request.SET_LOG_FD, None, self._fd("eventfd"), need_reply=True),
                message(Request.SET_FEATURES, FEATURES | F_LOG_ALL, need_reply=True),
                message(Request.SET_INFLIGHT_FD, inflight, self._fd("inflight"), need_reply=True),
            ]
        )

    def _config(self) -> Iterator[Message]:
        """Reads and writes, some of what may not be written."""
        offset = self._random.choice((0, 32))
        yield message(Request.GET_CONFIG, ConfigSpace(0, 0, bytes(self._random.choice((1, 60, 256)))))
        yield message(Request.SET_CONFIG, ConfigSpace(offset, 0, self._random.randbytes(1)), need_reply=True)

    def _device(self) -> Iterator[Message]:
        """The device as a whole."""
        yield self._random.choice(
            [
                message(Request.GET_FEATURES),
                message(Request.GET_QUEUE_NUM),
                message(Request.GET_MAX_MEM_SLOTS),
                message(Request.SET_STATUS, self._random.choice((0, 3, 15, 999)), need_reply=True),
                message(Request.GET_STATUS),
                message(Request.RESET_DEVICE),
                message(Request.RESET_OWNER),
                message(Request.SET_FEATURES, FEATURES, need_reply=True),
                message(99, need_reply=True),
            ]
        )

    def forget_changes(self) -> None:
        """Drop what a session before has told of changes."""
        with contextlib.suppress(BlockingIOError):
            while self.channel.recv(1 << 16, socket.MSG_DONTWAIT):
                pass

    def close(self) -> None:
        """Close all that was handed over."""
        self._owned.close()


def message(request: int, payload: Payload = None, *fds: int, need_reply: bool = False) -> Message:
    has_reply = need_reply or request in OWN_REPLY
    return Message(encode_message(request, encode(payload), need_reply=need_reply), fds, has_reply)
