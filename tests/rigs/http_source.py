"""An HTTP server to fetch from, in this process: what it does wrong is set while it runs."""

import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


class HttpSource:
    """Serves `content` at `uri`, in ranges. All attributes may be changed at any moment."""

    def __init__(self, content: bytes, etag: str | None = '"1"', modified: str | None = None) -> None:
        self.content, self.etag, self.modified = content, etag, modified
        self.refuses: int | None = None
        """The status that every request is answered with; None: what was asked for."""
        self.spoils: Callable[[bytes], bytes] = lambda data: data
        """What becomes of the bytes on their way."""
        self.open = threading.Event()
        """While it is cleared, answers wait."""
        self.open.set()
        self.asked: list[tuple[int, int]] = []
        """Offset and length of each read, in order."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}/base.img"

    def asked_bytes(self) -> int:
        return sum(length for _, length in self.asked)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        source = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                found = _RANGE.fullmatch(self.headers.get("Range", ""))
                assert found is not None, "the fetcher asks for ranges alone"
                first, last = int(found[1]), min(int(found[2]), len(source.content) - 1)
                source.asked.append((first, last + 1 - first))
                source.open.wait(60)
                wanted = self.headers.get("If-Match")
                if source.refuses is not None or (wanted is not None and wanted != source.etag):
                    self.send_response(source.refuses or 412)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                data = source.content[first : last + 1]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(source.content)}")
                for name, value in (("ETag", source.etag), ("Last-Modified", source.modified)):
                    if value is not None:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                spoilt = source.spoils(data)
                self.wfile.write(spoilt)
                self.close_connection = len(spoilt) != len(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler

    def __enter__(self) -> "HttpSource":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
