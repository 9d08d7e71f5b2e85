"""What the fetcher reads from: a source, of whichever kind."""

from typing import Protocol

from ringblk.workers.fetch.source_form import MAX_PIECE_BYTES, MIN_PIECE_BYTES


class SourceFault(Exception):  # noqa: N818
    """It cannot be read at the moment; it is asked again. The message is for people."""


class SourceRefused(SourceFault):
    """It says that there is no such thing, or not for us: whoever has asked gets an error."""


class SourceChanged(SourceFault):
    """It is not any more what it was: nothing is taken from it ever again."""


class Source(Protocol):
    """Read from by several threads at once. All raise `SourceFault`."""

    @property
    def ports(self) -> tuple[int, ...]:
        """Of TCP, that it is reached at."""

    def prepare(self) -> None:
        """Look up names, load certificates: all that is to be done before the sandbox."""

    def look(self) -> tuple[int, dict[str, str]]:
        """Its size in bytes, and what tells its content from other."""

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """So many bytes, not fewer. `pin` was called before, if it is to be as it was."""

    def pin(self, size_bytes: int, marks: dict[str, str]) -> None:
        """It is refused from now on if it is not like that."""


def make_source(uri: str) -> Source:
    """What a URI names. Raises `SourceRefused`."""
    if uri.startswith("nbd"):
        from ringblk.engine.fetcher.nbd_source import NbdSource  # each fetcher has one kind

        return NbdSource(uri)
    from ringblk.engine.fetcher.http_source import HttpSource

    return HttpSource(uri)


def piece_for(round_trip_s: float, bytes_per_s: float) -> int:
    """What is best fetched at once: what is as long under way as a round trip takes."""
    wanted = round_trip_s * bytes_per_s
    piece_bytes = MIN_PIECE_BYTES
    while piece_bytes < min(wanted, MAX_PIECE_BYTES):
        piece_bytes *= 2
    return piece_bytes
