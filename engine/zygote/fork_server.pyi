CLOSED: int
MESSAGE: int
CHILD: int
FIRST_PLACE: int
SECOND_PLACE: int

class ForkServer:
    @property
    def ring_fd(self) -> int: ...
    def __init__(
        self, channel_fd: int, *, forked: bytes, refused: bytes, unwatched: bytes, ended: bytes
    ) -> None: ...
    def serve(self) -> int: ...
    def take_message(self) -> tuple[bytes, list[int]]: ...
