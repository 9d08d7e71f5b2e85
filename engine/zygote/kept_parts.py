"""What of a drive's parts (`SecondCustody`) the zygote keeps, as it keeps sockets for the next supervisor."""

from ringblk.engine.zygote.messages import KeepSocket

_PLACE = b"\0part"
"""Where no front end comes to."""
_HANDLE_BYTES = 8

Segment = tuple[int, int]
"""Device and inode of the state segment of the drive."""


def kept_part(identity: bytes, segment: Segment, part: str, handle: int) -> KeepSocket:
    """As what a descriptor of this part is kept."""
    place = _PLACE + handle.to_bytes(_HANDLE_BYTES, "big") + part.encode()
    return KeepSocket(identity, place, *segment, False)


def part_place(kept: KeepSocket) -> tuple[str, int] | None:
    """Of which part it is, and under which handle; None: it is none of these."""
    if not kept.place.startswith(_PLACE):
        return None
    rest = kept.place[len(_PLACE) :]
    return rest[_HANDLE_BYTES:].decode(), int.from_bytes(rest[:_HANDLE_BYTES], "big")
