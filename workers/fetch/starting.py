"""Finding the fetcher of a source, and starting one where there is none."""

import errno
import os
import socket
import sys
import time

import msgspec

from ringblk.workers.fetch.source_form import SOCKET
from ringblk.workers.fetch.source_state import SourceState
from ringblk.workers.fetch.wire import LOOK, NO_CONTENT, REPLY, REQUEST

PROGRAM = ("-P", "-m", "ringblk.engine.fetcher.program")
DIED = 3
"""The exit status where the fetcher was killed before it could say anything: it is worth another attempt."""
START_S = 20.0
"""How long a fetcher may take to listen."""
LOOK_S = 25.0
"""How long it may take to say what its source is: less than storage may take to open."""
LOOK_COUNT = 3
"""A fetcher that has nobody left may end at the moment at which it is found."""
_PAUSE_S = 0.01
_ONE_READ_BYTES = 1 << 16


class FetcherGone(Exception):  # noqa: N818
    """There is no fetcher, and none can be started; or it does not answer. The message says why."""


def connect_fetcher(folder: str) -> socket.socket | None:
    """A connection to the fetcher that is there; None: there is none. Raises `OSError`."""
    end = socket.socket(socket.AF_UNIX)
    try:
        end.connect(os.path.join(folder, SOCKET))
    except (FileNotFoundError, ConnectionRefusedError):
        end.close()
        return None
    except BaseException:
        end.close()
        raise
    return end


def call_fetcher(folder: str) -> socket.socket:
    """A connection to the fetcher of a folder, which is started if there is none. Raises `FetcherGone`."""
    until_s = time.monotonic() + START_S
    while True:
        try:
            end = connect_fetcher(folder)
        except OSError as error:
            raise FetcherGone(f"its fetcher can't be reached: {error.strerror or error}") from None
        if end is not None:
            return end
        _start(folder)
        if time.monotonic() > until_s:
            raise FetcherGone("no fetcher listens there")
        time.sleep(_PAUSE_S)


def look_at_source(folder: str, look_s: float = LOOK_S) -> SourceState:
    """What a source is. Raises `FetcherGone`."""
    reason = ""
    for _ in range(LOOK_COUNT):
        with call_fetcher(folder) as end:
            end.settimeout(look_s)
            try:
                return ask_state(end)
            except TimeoutError:
                raise FetcherGone("its source does not answer") from None
            except (OSError, msgspec.MsgspecError) as error:
                reason = str(error)
    raise FetcherGone(f"its fetcher goes away again and again: {reason}")


def ask_state(end: socket.socket) -> SourceState:
    """What the fetcher says. Raises `OSError`, `TimeoutError`, `msgspec.MsgspecError`."""
    end.sendall(REQUEST.pack(LOOK, 0, NO_CONTENT, 0, 0))
    _, _, length = REPLY.unpack(_receive(end, REPLY.size))
    return msgspec.json.decode(_receive(end, length), type=SourceState)


def _receive(end: socket.socket, length: int) -> bytes:
    content = b""
    while len(content) < length:
        piece = end.recv(min(length - len(content), _ONE_READ_BYTES))
        if not piece:
            raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        content += piece
    return content


def _start(folder: str) -> None:
    """Start one, which listens when its first process has ended, or was killed. Raises `FetcherGone`."""
    told, tells = os.pipe()
    quiet = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, *PROGRAM, folder],
            dict(os.environ),
            file_actions=[
                (os.POSIX_SPAWN_DUP2, quiet, 0),
                (os.POSIX_SPAWN_DUP2, tells, 1),
            ],
        )
    except OSError as error:
        os.close(told)
        raise FetcherGone(f"no fetcher can be started: {error.strerror or error}") from None
    finally:
        os.close(quiet)
        os.close(tells)
    with open(told, "rb") as file:
        reason = file.read()
    _, status = os.waitpid(pid, 0)
    if status != 0 and os.waitstatus_to_exitcode(status) != DIED:
        text = reason.decode(errors="replace").strip() or f"it ended with status {status}"
        raise FetcherGone(f"its fetcher can't begin: {text}")
