"""systemd's journal, where standard error goes there: a line may begin with its priority (sd-daemon(3))."""

import logging
import os
from collections.abc import Mapping

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""From this level on: syslog's numbers (syslog(3))."""
_DEBUG = 7


def is_journal(fd: int, environment: Mapping[str, str]) -> bool:
    """Whether a descriptor is the stream that JOURNAL_STREAM names; who has another inherits that, too."""
    device, _, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def priority_prefix(level: int) -> str:
    """What the journal takes off the line and keeps as its priority: `<3>` for an error."""
    number = next((number for least, number in _PRIORITIES if level >= least), _DEBUG)
    return f"<{number}>"
