"""The io_urings of a drive's processes, which the zygote keeps as it keeps sockets for the next supervisor.

A ring is what fences a dead process. The supervisor has it, too; where a process and the supervisor die at
once, the next supervisor inherits it from the zygote. Linux sends none over a socket, so the zygote, which
makes it, keeps it by itself until it is told to forget it.
"""

from ringblk.engine.zygote.messages import KeepSocket

_PLACE = b"\0io_uring"
"""Where no front end comes to."""
_MARK = b"\xff\xff\xff\xff"
"""Of their identities; inodes have no such numbers."""


def kept_ring(pid: int) -> KeepSocket:
    """As what the ring of this process is kept."""
    return KeepSocket(_MARK + pid.to_bytes(4, "big"), _PLACE, 0, 0, False)


def ring_owner(kept: KeepSocket) -> int:
    """Whose ring it is; 0: it is none."""
    return int.from_bytes(kept.identity[len(_MARK) :], "big") if kept.place == _PLACE else 0
