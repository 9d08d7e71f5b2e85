"""What a session asks of a drive's processes, so that it may be asked once more by another control plane."""

from collections.abc import Callable, Sequence

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
        request_id, self.next_id = self.next_id, self.next_id + 1
        return await self._processes.ask(make_message, fds, settle, request_id)
