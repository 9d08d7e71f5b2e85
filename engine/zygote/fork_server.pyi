from collections.abc import Sequence

from ringblk.engine.zygote.kept_sockets import KeptSockets

CLOSED: int
MESSAGE: int
CHILD: int
DIED: int
ORPHANED: int
FIRST_PLACE: int
SECOND_PLACE: int

class ForkServer:
    @property
    def ring_fd(self) -> int: ...
    def __init__(
        self,
        channel_fd: int,
        *,
        forked: bytes,
        refused: bytes,
        unwatched: bytes,
        ended: bytes,
        kept_ring: bytes,
    ) -> None: ...
    @property
    def supervisor_pidfd(self) -> int: ...
    @property
    def supervisor_pid(self) -> int: ...
    @property
    def supervisor_status(self) -> int: ...
    @property
    def sockets(self) -> KeptSockets: ...
    @property
    def config_fd(self) -> int: ...
    def outlive(
        self, supervisor_pidfd: int, config_fd: int, launcher_pidfd: int, kept_fds: Sequence[int]
    ) -> None: ...
    def let_go(self, fd: int) -> None: ...
    def follow(self, channel_fd: int, supervisor_pid: int, supervisor_pidfd: int) -> None: ...
    def serve(self) -> int: ...
    def take_message(self) -> tuple[bytes, list[int]]: ...
