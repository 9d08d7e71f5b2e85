"""What a session asks of a drive's processes, so that it may be asked once more by another control plane."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from ringblk.engine.dispatcher.messages import SESSION_REQUESTS, ToDispatcher
from ringblk.engine.supervisor.drive_processes import DriveProcesses


class NumberedRequests:
    """Numbers the requests of one session after the other (`SESSION_REQUESTS`)."""

    def __init__(self, processes: DriveProcesses) -> None:
        self._processes = processes
        self.next_id = SESSION_REQUESTS
        """Kept with the session's state, and gone on from by who carries out its message in hand again."""

    async def ask(
        self,
        make_message: Callable[[int], ToDispatcher],
        fds: Sequence[int] = (),
        settle: Callable[[bool], None] = lambda is_done: None,
    ) -> int:
        """As `DispatcherLink.ask`."""
        return await self.wait(self.request(make_message, fds, settle))

    def wait(self, answer: "asyncio.Future[int]") -> Coroutine[Any, Any, int]:
        """As `DriveProcesses.wait`."""
        return self._processes.wait(answer)

    def request(
        self,
        make_message: Callable[[int], ToDispatcher],
        fds: Sequence[int] = (),
        settle: Callable[[bool], None] = lambda is_done: None,
    ) -> "asyncio.Future[int]":
        """As `DispatcherLink.request`."""
        request_id, self.next_id = self.next_id, self.next_id + 1
        return self._processes.request(make_message, fds, settle, request_id)
