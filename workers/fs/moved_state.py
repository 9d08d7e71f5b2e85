"""What a guest knows of a shared folder, in the form in which it goes from one engine to another."""

from typing import Annotated

import msgspec

FORM = "ringblk-share"
VERSION = 1
"""Of the form; an engine refuses another."""
MAX_HANDLE_BYTES = 44
"""As `request.pxd` has room for."""

Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]


class StateRefused(Exception):  # noqa: N818
    """The state cannot be given or taken; its text says why."""


class MovedInode(msgspec.Struct, frozen=True, array_like=True):
    """An inode that the guest knows."""

    node_id: Annotated[int, msgspec.Meta(ge=2)]
    """The guest's name for it, also where the next engine would choose another."""
    lookup_count: Annotated[int, msgspec.Meta(ge=1)]
    kind: Number
    """S_IFMT of its mode."""
    handle_type: Annotated[int, msgspec.Meta(ge=-(1 << 31), lt=1 << 31)]
    handle: Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_HANDLE_BYTES)]
    """The host's file handle, which counts wherever the same file system is mounted."""
    path: bytes | None = None
    """Where it was below the folder; None: it has no name, or nobody could tell."""


class MovedFolder(msgspec.Struct, frozen=True, kw_only=True):
    """All of a guest's file system; nothing is in flight."""

    form: str = FORM
    version: int = VERSION
    is_of_class: bool
    """Whether inodes are numbers of a user's class."""
    minor: Number
    """What the guest has agreed to in INIT; 0: it has not begun."""
    flags: Number
    flags2: Number
    max_write_bytes: Number
    inodes: list[MovedInode]


class _Head(msgspec.Struct, frozen=True):
    form: str
    version: int


def encode_folder(folder: MovedFolder) -> bytes:
    """As it goes over."""
    return msgspec.msgpack.encode(folder)


def decode_folder(data: bytes) -> MovedFolder:
    """What another engine has sent. Raises `StateRefused`."""
    try:
        head = msgspec.msgpack.decode(data, type=_Head)
    except msgspec.DecodeError:
        raise StateRefused("it is no state of a shared folder of ringblk's") from None
    if head.form != FORM or head.version != VERSION:
        raise StateRefused(
            f"it has form {head.form!r:.40} {head.version}, this engine knows {FORM!r} {VERSION}"
        )
    try:
        return msgspec.msgpack.decode(data, type=MovedFolder)
    except msgspec.DecodeError as error:
        raise StateRefused(f"it is damaged: {error}") from None
