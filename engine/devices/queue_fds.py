"""The eventfds of one queue, as they go from process to process."""

from typing import NamedTuple


class QueueFds(NamedTuple):
    """No kick: the queue is polled. No call or error: nobody wants to be told."""

    kick: int | None = None
    call: int | None = None
    err: int | None = None

    @classmethod
    def take(cls, has_fds: tuple[bool, bool, bool], fds: list[int]) -> "QueueFds":
        """Take as many as are announced from the front of `fds`."""
        return cls(*(fds.pop(0) if has_fd else None for has_fd in has_fds))

    def presence(self) -> tuple[bool, bool, bool]:
        """Which of them there are."""
        return self.kick is not None, self.call is not None, self.err is not None

    def present(self) -> list[int]:
        """Those that there are, in the order in which messages carry them."""
        return [fd for fd in self if fd is not None]
