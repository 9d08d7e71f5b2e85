"""Connecting to an NBD server with TLS, without waiting: a conversation (`negotiation.py`) over a socket."""

import errno
import os
import select
import socket
import ssl
from collections.abc import Callable

from ringblk.workers.nbd.export import ExportFound
from ringblk.workers.nbd.negotiation import START_TLS, Conversation, NotServed
from ringblk.workers.nbd.tls_files import reason_of
from ringblk.workers.nbd.tls_session import PaddedRecords, TlsSession

_RECEIVE_BYTES = 1 << 16


class TlsConnecting:
    """One attempt, on a socket that is connecting and does not block. `found` is there once it is done.

    `converse(say)` is what is to be said; `make_session` begins with TLS. The socket is this object's until
    it is taken.
    """

    def __init__(
        self,
        end: socket.socket,
        converse: Callable[[Callable[[bytes], None]], Conversation],
        make_session: Callable[[], TlsSession],
    ) -> None:
        self._end: socket.socket | None = end
        self._make_session = make_session
        self.session: TlsSession | None = None
        """From the moment on at which the server offers TLS."""
        self.found: ExportFound | None = None
        self._has_connected = False
        self._came, self._unsent = bytearray(), bytearray()
        self._conversation = converse(self._say)
        self._wanted_bytes = next(self._conversation)

    def fileno(self) -> int:
        """The socket's descriptor; -1: it was taken, or closed."""
        return -1 if self._end is None else self._end.fileno()

    @property
    def wanted_events(self) -> int:
        """What a poll is to look for before `go_on`."""
        if not self._has_connected:
            return select.POLLOUT
        return select.POLLIN | (select.POLLOUT if self._unsent else 0)

    def go_on(self) -> bool:
        """As far as it goes without waiting; whether it is done.

        Raises `NotServed`, and `OSError` (`ssl.SSLError` is one).
        """
        assert self._end is not None
        if not self._has_connected:
            if error_number := self._end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error_number, os.strerror(error_number))
            self._has_connected = True
        self._receive(self._end)
        while self._step():
            pass
        self._send(self._end)
        return (
            self.found is not None
            and not self._unsent
            and (self.session is None or self.session.is_between_records)
        )

    def take_socket(self) -> int:
        """The socket's descriptor, the caller's from now on."""
        assert self._end is not None
        end, self._end = self._end, None
        return end.detach()

    def close(self) -> None:
        """Let go of it."""
        if self._end is not None:
            self._end.close()
            self._end = None

    def _say(self, data: bytes) -> None:
        if self.session is None:
            self._unsent += data
        else:
            self.session.say(data)

    def _receive(self, end: socket.socket) -> None:
        while True:
            try:
                data = end.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return
            except ConnectionResetError:
                data = b""
            if not data:
                raise OSError(errno.ECONNRESET, self._describe_end())
            if self.session is None:
                self._came += data
            else:
                self.session.feed(data)

    def _describe_end(self) -> str:
        if self.session is None:
            return "the server has ended the connection"
        return "the server has ended the connection in the middle of TLS: it may want another certificate"

    def _step(self) -> bool:
        """Take what has come one step further; False: more has to come first."""
        if self.found is not None:
            return False
        if self._wanted_bytes == START_TLS:
            return self._step_handshake()
        if self.session is not None:
            self._take_records(self.session)
        if len(self._came) < self._wanted_bytes:
            return False
        data = bytes(self._came[: self._wanted_bytes])
        del self._came[: self._wanted_bytes]
        self._converse(data)
        return True

    def _step_handshake(self) -> bool:
        if self.session is None:
            if self._came:
                raise NotServed("the server says something between its offer of TLS and that")
            self.session = self._make_session()
            self.session.shake_hands()
        while not self.session.is_secure:
            if not self.session.take_record():
                return False
        if not self.session.overhead_bytes:
            raise NotServed(
                "the server has chosen a cipher whose records tell nobody how long their content is"
            )
        self._converse(b"")
        return True

    def _converse(self, data: bytes) -> None:
        try:
            self._wanted_bytes = self._conversation.send(data)
        except StopIteration as end:
            self.found = end.value

    def _take_records(self, session: TlsSession) -> None:
        try:
            while session.take_record():
                pass
        except EOFError:
            raise OSError(errno.ECONNRESET, self._describe_end()) from None
        except PaddedRecords:
            raise NotServed(
                "the server pads what it encrypts, so nobody could tell how much it says"
            ) from None
        self._came += session.said
        session.said.clear()

    def _send(self, end: socket.socket) -> None:
        if self.session is not None:
            self._unsent += self.session.take()
        while self._unsent:
            try:
                del self._unsent[: end.send(self._unsent)]
            except BlockingIOError:
                return


def describe_failure(error: Exception) -> str:
    """What to tell a person of an exception of `go_on`."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS with the server: {reason_of(error)}"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)
