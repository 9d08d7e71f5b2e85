"""Reading ahead: who reads a source from one end to the other should find the next piece there."""

STREAM_LIMIT = 64
"""Readers that are known at once; the one that has not asked for longest is forgotten."""
MOST_PIECES = 8
"""What is fetched ahead of a reader at the most."""


class ReadAhead:
    """Knows where readers are that go forward, by the pieces that are asked for: nobody says who he is.

    A reader asks for what is missing only, so one that goes on asks for a piece that is being fetched ahead
    of it, or for the first that is not.
    """

    def __init__(self) -> None:
        self._streams: dict[int, tuple[int, int]] = {}
        """By the first piece that was not fetched ahead: from where on it was, and how many."""

    def after(self, first: int, end: int) -> range:
        """Pieces [first, end) are asked for: what to fetch ahead."""
        until, width = end, 0
        for known_until, (begin, known_width) in self._streams.items():
            if begin <= first <= known_until:
                del self._streams[known_until]
                until, width = max(end, known_until), min(MOST_PIECES, max(1, 2 * known_width))
                break
        next_until = max(until, end + width)
        self._streams.pop(next_until, None)
        self._streams[next_until] = (end, width)
        if len(self._streams) > STREAM_LIMIT:
            del self._streams[next(iter(self._streams))]
        return range(until, next_until)
