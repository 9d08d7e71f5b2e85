"""What comes back of a front end's requests: completions and errors."""

import msgspec

from ringblk.engine.frontend.buffer import Buffer
from ringblk.workers.block.protocol import RequestStatus


class Completion(msgspec.Struct, frozen=True, gc=False):
    """A request that has come back.

    `token` is what submitting it returned; `status` is the status byte, 0 for success; `used_length_bytes`
    is what the back end says it wrote, status byte included; `latency_ns` runs from submission to the poll
    that found it; `buffer` is the request's own, for the data of a read.
    """

    token: int
    status: int
    used_length_bytes: int
    latency_ns: int
    buffer: Buffer | None


class RequestFailed(Exception):  # noqa: N818
    """The back end answered a request with a status other than OK.

    `status` says which: IOERR (the disk failed, or the request lies outside it, is not a multiple of 512
    bytes, or writes to a read-only disk) or UNSUPP (the back end has no such request: do without it).
    Nothing is known about how much of a failed write was done; the front end remains usable.
    """

    def __init__(self, status: int) -> None:
        name = RequestStatus(status).name if status in list(RequestStatus) else "unknown"
        super().__init__(f"the back end answered with status {status} ({name})")
        self.status = status


class BackendGone(Exception):  # noqa: N818
    """The back end has closed the connection, ended, or does not answer.

    Requests in flight are neither done nor undone. Call `Frontend.reconnect()` to have a new back end finish
    them, or close the front end.
    """


class BackendRefused(Exception):  # noqa: N818
    """The back end will not do what the front end needs; the message says what.

    Ask for less (fewer queues, less memory) or use another back end.
    """
