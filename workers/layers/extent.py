"""A stretch of a drive; light, as whoever only tells of one needs no more."""

import msgspec


class Extent(msgspec.Struct, frozen=True):
    """A stretch of a drive, in bytes."""

    offset: int
    length: int
