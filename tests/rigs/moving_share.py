"""A guest's file system that goes from one engine to another, as QEMU takes it along."""

import os
import socket
import threading

from ringblk.engine.vhost_user.codes import FrontendRequest, ProtocolFeature, StateDirection
from ringblk.engine.vhost_user.device_state import NO_FD_FLAG, SUCCESS
from ringblk.engine.vhost_user.messages import VringState as TwoNumbers
from ringblk.engine.vhost_user.messages import encode_message, encode_vring_state
from tests.rigs.engine_rig import Engine
from tests.rigs.share import ShareFrontend

PHASE_STOPPED = 0


class StateRefusedThere(Exception):  # noqa: N818
    """An engine has answered that it does not give the state, or does not take it."""


class MovingShare(ShareFrontend):
    """As `ShareFrontend`, over the same guest memory wherever it is."""

    def __init__(self, engine: Engine | socket.socket, *, begins: bool = True) -> None:
        super().__init__(engine, begins=begins)
        self.want_state()

    def want_state(self) -> None:
        connection = self.connection
        connection.negotiate_protocol_features(connection.protocol_features | ProtocolFeature.DEVICE_STATE)

    def stop(self) -> None:
        """Stop all queues."""
        for index in range(len(self.frontend.queues)):
            self.connection.get_vring_base(index)

    def go_on(self) -> None:
        """Start them again, at whatever engine."""
        for index in range(len(self.frontend.queues)):
            self.frontend.start_queue(index)

    def ask_state(self, direction: int, fd: int, phase: int = PHASE_STOPPED) -> int:
        """SET_DEVICE_STATE_FD; the answer."""
        connection, request = self.connection, FrontendRequest.SET_DEVICE_STATE_FD
        payload = encode_vring_state(TwoNumbers(direction, phase))
        with connection._lock:
            connection._send(encode_message(request, payload), (fd,))
            answer, fds = connection._receive_reply(request)
        assert isinstance(answer, int)
        assert not fds
        return answer

    def check_state(self) -> int:
        """CHECK_DEVICE_STATE; the answer."""
        return self.connection._query_u64(FrontendRequest.CHECK_DEVICE_STATE)

    def save(self) -> bytes:
        """The state of an engine whose queues are stopped. Raises `StateRefusedThere`."""
        ours, theirs = os.pipe()
        with open(ours, "rb") as pipe:
            answer = self.ask_state(StateDirection.SAVE, theirs)
            os.close(theirs)
            if answer != SUCCESS | NO_FD_FLAG:
                raise StateRefusedThere(f"it answers {answer:#x}")
            data = pipe.read()
        if code := self.check_state():
            raise StateRefusedThere(f"it is over, and the answer is {code}")
        return data

    def load(self, data: bytes) -> None:
        """Give it to an engine. Raises `StateRefusedThere`."""
        theirs, ours = os.pipe()
        answer = self.ask_state(StateDirection.LOAD, theirs)
        os.close(theirs)
        with open(ours, "wb") as pipe:
            if answer != SUCCESS | NO_FD_FLAG:
                raise StateRefusedThere(f"it answers {answer:#x}")
            writer = threading.Thread(target=pipe.write, args=(data,))
            writer.start()
            writer.join()
        if code := self.check_state():
            raise StateRefusedThere(f"it is over, and the answer is {code}")

    def connect(self, engine: Engine | socket.socket) -> None:
        """Be connected to another engine, as far as memory; the one before is hung up on."""
        self.frontend.connection.close()
        self.frontend.connect(engine)
        self.frontend.negotiate()
        self.want_state()
        self.frontend.add_memory()

    def move(self, engine: Engine | socket.socket) -> None:
        """All of it."""
        self.stop()
        data = self.save()
        self.connect(engine)
        self.load(data)
        self.go_on()
