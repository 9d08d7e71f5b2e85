"""A file on an HTTP server: range requests (RFC 9110, 14), each answer checked against what it was."""

import base64
import http.client
import re
import socket
import ssl
from urllib.parse import unquote, urlsplit

from ringblk.engine.base.printable_text import printable
from ringblk.engine.base.version import VERSION
from ringblk.engine.fetcher.idle_ends import IdleEnds
from ringblk.engine.fetcher.server_address import TIMEOUT_S, Address, connect_first, find_addresses
from ringblk.engine.fetcher.source import SourceChanged, SourceFault, SourceRefused

_AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""What a server says that may serve it later."""
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_MARKS = ("etag", "last-modified")


class HttpSource:
    """`http://` or `https://`, with a name and password where it has them."""

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        if not parts.hostname or parts.fragment:
            raise SourceRefused(f"{parts.scheme}://HOST[:PORT]/PATH names a file")
        self._host = parts.hostname
        self._is_encrypted = parts.scheme == "https"
        self._port = parts.port or (443 if self._is_encrypted else 80)
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {"User-Agent": f"ringblk/{VERSION}", "Accept-Encoding": "identity"}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(login).decode()}"
        self._addresses: list[Address] = []
        self._context: ssl.SSLContext | None = None
        self._ends = IdleEnds(self._connect)
        self._pinned: tuple[int, dict[str, str]] | None = None

    @property
    def ports(self) -> tuple[int, ...]:
        """The server's."""
        return (self._port,)

    def prepare(self) -> None:
        """Find the server, and this system's authorities. Raises `SourceFault`."""
        self._addresses = find_addresses(self._host, self._port)
        if self._is_encrypted:
            self._context = ssl.create_default_context()

    def pin(self, size_bytes: int, marks: dict[str, str]) -> None:
        """It has to be so from now on."""
        self._pinned = size_bytes, marks
        if (tag := marks.get("etag", "")).startswith('"'):  # a weak one matches nothing (RFC 9110, 13.1.1)
            self._headers["If-Match"] = tag

    def look(self) -> tuple[int, dict[str, str]]:
        """Ask for its first byte: that tells more than HEAD does. Raises `SourceFault`."""
        content, size_bytes, marks = self._get(0, 1)
        assert len(content) == 1
        return size_bytes, marks

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """So many bytes. Raises `SourceFault`."""
        content, size_bytes, marks = self._get(offset_bytes, length_bytes)
        if self._pinned is not None and self._pinned != (size_bytes, marks):
            raise SourceChanged(_describe_change(*self._pinned, size_bytes, marks))
        return content

    def _get(self, offset_bytes: int, length_bytes: int) -> tuple[bytes, int, dict[str, str]]:
        """The bytes, and what the server says of the whole. Raises `SourceFault`."""
        last = offset_bytes + length_bytes - 1
        headers = {**self._headers, "Range": f"bytes={offset_bytes}-{last}"}
        try:
            with self._ends.one() as end:
                end.request("GET", self._target, headers=headers)
                answer = end.getresponse()
                if answer.status != http.client.PARTIAL_CONTENT:
                    raise _refusal(answer.status, answer.reason)
                size_bytes = _checked_range(answer, offset_bytes, last)
                content = answer.read()  # not more than it has announced
                if answer.will_close:
                    end.close()
        except (OSError, http.client.HTTPException) as error:
            text = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else str(error)
            raise SourceFault(f"the server does not answer: {text or type(error).__name__}") from None
        if len(content) != length_bytes:
            raise SourceFault(f"the server has sent {len(content)} bytes of {length_bytes}")
        marks = {name: value for name in _MARKS if (value := answer.headers.get(name))}
        return content, size_bytes, marks

    def _connect(self) -> http.client.HTTPConnection:
        """Raises `OSError`."""
        return connect_first(self._addresses, self._begin)

    def _begin(self, end: socket.socket) -> http.client.HTTPConnection:
        """Raises `OSError`."""
        if self._context is not None:
            end = self._context.wrap_socket(end, server_hostname=self._host)
        connection = http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
        connection.sock = end
        connection.auto_open = 0
        return connection


def _refusal(status: int, reason: str) -> SourceFault:
    """What an answer means that has no bytes of ours."""
    text = printable(f"{status} {reason}")
    if status == http.client.PRECONDITION_FAILED:
        return SourceChanged("its source is not what it was: its ETag is another")
    if status == http.client.OK:
        return SourceRefused("the server takes no range requests")
    if status in _AGAIN:
        return SourceFault(f"the server says {text}")
    if 300 <= status < 400:
        return SourceRefused(f"the server says {text}: name the place that it points to")
    return SourceRefused(f"the server says {text}")


def _checked_range(answer: http.client.HTTPResponse, first: int, last: int) -> int:
    """How large the whole is, if this is the part that was asked for. Raises `SourceFault`."""
    said = answer.headers.get("content-range", "")
    found = _RANGE.fullmatch(said)
    if found is None or answer.headers.get("content-encoding", "identity") != "identity":
        raise SourceFault(f"the server has sent what is no range: {printable(said) or 'without a range'}")
    if (int(found[1]), int(found[2])) != (first, last):
        if int(found[3]) <= last:
            raise SourceChanged(f"its source is not what it was: it has {int(found[3])} bytes")
        raise SourceFault(f"the server has sent {printable(said)}, not {first}-{last}")
    return int(found[3])


def _describe_change(was_bytes: int, was: dict[str, str], is_bytes: int, now: dict[str, str]) -> str:
    if was_bytes != is_bytes:
        return f"its source is not what it was: it had {was_bytes} bytes and has {is_bytes}"
    name = next(name for name in (*was, *now) if was.get(name) != now.get(name))
    return (
        f"its source is not what it was: {name} was {printable(was.get(name, 'not said'))}"
        f" and is {printable(now.get(name, 'not said'))}"
    )
