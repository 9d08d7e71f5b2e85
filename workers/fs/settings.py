"""What a share was set up as, for the processes that carry out its requests."""

import msgspec


class ShareSettings(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Plain data; FUSE's flags as in `protocol.pxd`."""

    is_read_only: bool
    has_xattr: bool
    is_stateless: bool
    """OPEN and OPENDIR are answered with ENOSYS, which a guest takes for "not needed"."""
    is_of_class: bool
    """Whether a class of a user's own is the file system, and no folder."""
    entry_valid_s: int
    """How long a guest may go by what it knows of a name,"""
    attr_valid_s: int
    """and of an inode."""
    open_flags: int
    init_flags: int
    """What is agreed to of what a guest offers in INIT."""
    init_flags2: int
    allows_direct: bool
    """Whether a guest's O_DIRECT is one here."""
    host_uids: list[tuple[int, int, int, int]]
    """What a guest's users are here (`IdMap`),"""
    guest_uids: list[tuple[int, int, int, int]]
    """and the host's there;"""
    host_gids: list[tuple[int, int, int, int]]
    """the same of groups."""
    guest_gids: list[tuple[int, int, int, int]]
    window_bytes: int
    """Of the DAX window; 0: there is none."""
    open_limit: int
    """Inodes that a process has open at once."""
