"""How it stands with a source, as its fetcher tells it."""

import msgspec

from ringblk.workers.fetch.source_form import SourcePin


class SourceState(msgspec.Struct, frozen=True, kw_only=True):
    """How it stands with a source, as its fetcher says."""

    uri: str
    pin: SourcePin | None = None
    """None: nobody could look at it so far."""
    layer_id: bytes = b""
    fault: str = ""
    """Why nothing can be fetched at the moment; empty: nothing is known to be wrong."""
    has_changed: bool = False
    """Whether the source is not any more what it was: nothing is fetched ever again."""
    fetched_bytes: int = 0
    """From the source, by this fetcher."""
    read_count: int = 0
    """Reads from the source."""
    failed_count: int = 0
    """Those that have failed, or whose answer was refused."""
    ask_count: int = 0
    """Requests of drives that something was missing for."""
    ask_bytes: int = 0
    uncached_bytes: int = 0
    """Fetched and not kept, since there was no room."""
    cached_blocks: int = 0
    missing_blocks: int = 0
    waiting_count: int = 0
    """Requests of drives that wait at the moment."""
