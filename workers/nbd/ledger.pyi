from typing_extensions import Buffer

MAX_CONNECTIONS: int
LOOK_BYTES: int

class NotNbd(Exception):  # noqa: N818
    """What the server says makes no sense any more: nobody can tell what it has done."""

class Ledger:
    """What each connection of one drive owes."""

    user: int

    def __init__(self, fd: int | None = None) -> None: ...
    @property
    def fd(self) -> int: ...
    def generation(self, index: int) -> int: ...
    def owed_count(self, index: int) -> int: ...
    def close(self) -> None: ...

class ReplyKeeper:
    """Takes the replies that are owed to a process that is dead."""

    def __init__(self, ledgers: Ledger, index: int) -> None: ...
    @property
    def owed_count(self) -> int: ...
    def feed(self, data: Buffer) -> None: ...
