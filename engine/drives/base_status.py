"""What the control API tells of a base that is fetched."""

import msgspec


class BaseStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How it stands with a base that is fetched: for all drives of the host, but for the first two counts."""

    source: str
    read_count: int
    """Reads of this drive that were of its base."""
    miss_count: int
    """Those of them for which something had to be fetched."""
    has_fetcher: bool
    """Whether there is a process that fetches. All that follows is what it has said last."""
    fault: str = ""
    """Why the last read of the source has failed; empty: it has not."""
    has_changed: bool = False
    """Whether the source is not any more what it was, so that nothing is fetched ever again."""
    cached_bytes: int = 0
    missing_bytes: int = 0
    piece_bytes: int = 0
    """What is fetched at once."""
    fetched_bytes: int = 0
    """Since the fetcher began, like all that follows."""
    fetch_count: int = 0
    failed_count: int = 0
    ask_count: int = 0
    uncached_bytes: int = 0
    """Fetched and not kept, since there was no room."""
    waiting_count: int = 0
    """Requests that wait for the source now."""
