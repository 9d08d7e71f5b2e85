"""One TLS session between bytes as they are on a socket and what they mean: it has no socket itself."""

import ssl

from ringblk.workers.nbd.tls_records import overhead_of

READ_BYTES = 1 << 16
_HEAD_BYTES = 5


class PaddedRecords(Exception):  # noqa: N818
    """Records are longer than they need to be, so nobody can tell from outside how much they say."""


class TlsSession:
    """Of a client. Methods raise `ssl.SSLError`.

    Up to the first request it takes one record at a time (`feed`, `take_record`), then all that comes
    (`feed_all`).
    """

    def __init__(self, context: ssl.SSLContext, hostname: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=hostname or None)
        self._coming = bytearray()
        self.said = bytearray()
        """What the server has said in records that were taken; whoever uses it removes it."""
        self.is_secure = False
        """Whether the handshake is done."""

    @property
    def is_between_records(self) -> bool:
        """Whether what the server has sent so far ends with a record."""
        return not self._coming

    @property
    def overhead_bytes(self) -> int:
        """How much longer a record is than what is in it (`overhead_of`)."""
        cipher = self._tls.cipher()
        return overhead_of(self._tls.version() or "", cipher[0] if cipher else "")

    def shake_hands(self) -> None:
        """Go on with the handshake as far as what has come allows."""
        try:
            self._tls.do_handshake()
            self.is_secure = True
        except ssl.SSLWantReadError:
            pass

    def feed(self, data: bytes) -> None:
        """The socket has brought this."""
        self._coming += data

    def take_record(self) -> bool:
        """Take the next record; False: it has not come whole.

        Raises `PaddedRecords`, and `EOFError` where the server has ended the session.
        """
        size_bytes = _HEAD_BYTES + int.from_bytes(self._coming[3:_HEAD_BYTES], "big")
        if len(self._coming) < max(size_bytes, _HEAD_BYTES + 1):
            return False
        self._incoming.write(self._coming[:size_bytes])
        del self._coming[:size_bytes]
        if not self.is_secure:
            self.shake_hands()
            return True
        buffer = memoryview(bytearray(READ_BYTES))
        said_bytes = self.read_into(buffer)
        if said_bytes and said_bytes != size_bytes - _HEAD_BYTES - self.overhead_bytes:
            raise PaddedRecords
        self.said += buffer[:said_bytes]
        return True

    def feed_all(self, data: memoryview) -> None:
        """The socket has brought this, and all of it is to be read."""
        self._incoming.write(data)

    def read_into(self, buffer: memoryview) -> int:
        """Take what the server has said: how many bytes; 0: no more has come.

        Raises `EOFError` where the server has ended the session.
        """
        try:
            count: int = self._tls.read(len(buffer), buffer)  # type: ignore[assignment]
        except ssl.SSLWantReadError:
            return 0
        except ssl.SSLZeroReturnError:
            raise EOFError from None
        if count == 0:
            raise EOFError
        return count

    def say(self, data: bytes | memoryview) -> None:
        """Encrypt this for the server."""
        self._tls.write(data)

    def take(self) -> bytes:
        """What is to be sent."""
        return self._outgoing.read()
