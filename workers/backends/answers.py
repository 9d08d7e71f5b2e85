"""What a backend says of itself when it is asked at the start (`NativeBackend`)."""

from typing import Literal

import msgspec


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """How long who asks for something has to wait for it."""

    reason: str
    """Why, in words for the log."""
    may_block: bool = True
    """False: a request is done as quickly as memory is."""
    begins_at_once: bool = False
    """Whether beginning a request through `fd` does not block, whatever carrying it out takes."""
    is_asynchronous: bool = False
    """Whether it has an asynchronous form that takes every request: who begins them waits for nothing."""
    sample_ns: int | None = None
    """What a read of a few KiB took; None: nothing can be told from one."""


class DirectIo(msgspec.Struct, frozen=True):
    """Whether I/O goes past the host's page cache, and why."""

    is_direct: bool
    reason: str


class StorageIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What tells the same storage from other, whatever it was opened by and by whom."""

    kind: Literal["image", "device"]
    """A regular file, or a block device."""
    device: int
    """Of a file, what it is on; of a device, its own number."""
    inode: int = 0
    generation: int = 0
    """When the file was made, or the disk's sequence number; 0: unknown. Other numbers are used again."""

    @property
    def subject(self) -> tuple[int, int]:
        """What a state segment says of it; never (0, 0)."""
        return self.device, self.inode


class ServerConnection(msgspec.Struct, frozen=True, kw_only=True):
    """How it stands between a drive and the server that keeps its bytes."""

    is_connected: bool
    """Whether there is any connection; where there is none, requests wait."""
    since_s: float
    """For how many seconds that has been so; 0: no process of the drive has connected so far."""
    connection_count: int
    connection_limit: int
    """As many are wanted."""
    reconnect_count: int
    """Connections that were made again, after one was lost or its process had died."""
    request_count: int
    """Requests that were begun, and that the server has not answered."""
    last_error: str
    """Why there was no connection last; empty: there always was one."""
    abilities: list[str]
    """What the server said at the start that it can do."""
    is_encrypted: bool
