"""A front end's queues, for as long as it is open."""

from ringblk.engine.frontend.queue import FrontendQueue


class OpenQueues(dict[int, FrontendQueue]):
    """The queues by index; a ValueError says why there is none."""

    closed_because = ""

    def __missing__(self, queue_index: int) -> FrontendQueue:
        self.check_open()
        raise ValueError(f"no queue {queue_index}: this front end has {len(self)}")

    def check_open(self) -> None:
        """Raise `ValueError` where it was closed."""
        if self.closed_because:
            raise ValueError(self.closed_because)

    def close(self, why: str) -> None:
        """There are no queues any more."""
        self.closed_because = why
        self.clear()
