class AsyncForm:
    """The asynchronous form of a backend, in one process."""

    @property
    def ready_fd(self) -> int: ...
