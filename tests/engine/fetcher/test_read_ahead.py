"""What is fetched ahead: of readers that go forward, twice as much each time; of others nothing."""

import random

from ringblk.engine.fetcher.read_ahead import MOST_PIECES, STREAM_LIMIT, ReadAhead


def test_a_reader_that_goes_forward() -> None:
    ahead, fetched, first = ReadAhead(), set[int](), 0
    widths = []
    while first < 100:
        fetched.add(first)
        wanted = ahead.after(first, first + 1)
        assert fetched.isdisjoint(wanted)
        fetched |= set(wanted)
        widths.append(len(wanted))
        first = next(piece for piece in range(first, 1000) if piece not in fetched)
    assert widths[:6] == [0, 1, 2, 4, 8, 8]
    assert fetched == set(range(max(fetched) + 1))


def test_nothing_is_fetched_ahead_of_who_jumps() -> None:
    ahead = ReadAhead()
    pieces = [10 * piece for piece in range(1000)]
    random.Random(1).shuffle(pieces)
    assert all(len(ahead.after(piece, piece + 1)) == 0 for piece in pieces)


def test_readers_do_not_disturb_each_other() -> None:
    ahead = ReadAhead()
    for first in range(2):
        for reader in range(STREAM_LIMIT // 2):
            ahead.after(1000 * reader + first, 1000 * reader + first + 1)
    assert ahead.after(2 + 1000, 3 + 1000) == range(1003, 1005)
    assert len(ahead.after(0, 1 << 20)) <= MOST_PIECES
