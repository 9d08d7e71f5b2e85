"""Host I/O errors as log lines: the first of each kind at once, the rest counted."""

import errno
import logging
import os
from collections import Counter

_log = logging.getLogger(__name__)


class HostErrors:
    """Reports the errors of one process. A kind is logged at its 1st, 2nd, 4th, 8th ... occurrence."""

    def __init__(self, who: str) -> None:
        self._who = who
        self._counts: Counter[int] = Counter()

    def report(self, error: int) -> None:
        """Count a negative errno, and log it when its count is a power of two."""
        self._counts[error] += 1
        count = self._counts[error]
        if error and count & (count - 1) == 0:
            name = errno.errorcode.get(-error, str(-error))
            _log.error("%s: host I/O error %s (%s), %d so far", self._who, name, os.strerror(-error), count)
