"""What goes wrong in a class of a user's own, for the guest and for the log."""

import errno
import logging
import os
from types import CodeType

_log = logging.getLogger(__name__)

MAX_KINDS_OF_FAILURE = 256
MAX_ERRNO = 4095


def errno_of(error: BaseException) -> int:
    """What the guest is told of an exception: an `OSError`'s errno, if Linux has such a one; else EIO."""
    if isinstance(error, OSError) and error.errno is not None and 0 < error.errno <= MAX_ERRNO:
        return error.errno
    return errno.EIO


class FailureLog:
    """The first failure of a kind with its traceback, then only the count, at each power of ten."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, tuple[CodeType, int] | None], int] = {}

    def log(self, subject: object, method_name: str, what: str, error: BaseException | None) -> None:
        """Log what a method of `subject` has done; `error` is what it raised, if it did."""
        traceback = None if error is None else error.__traceback__
        while traceback is not None and traceback.tb_next is not None:
            traceback = traceback.tb_next
        place = None if traceback is None else (traceback.tb_frame.f_code, traceback.tb_lineno)
        kind = (method_name, what, place)
        if kind not in self._counts and len(self._counts) >= MAX_KINDS_OF_FAILURE:
            self._counts.clear()
        count = self._counts.get(kind, 0) + 1
        self._counts[kind] = count
        name = f"{type(subject).__module__}.{type(subject).__qualname__}.{method_name}"
        if count == 1:
            exc_info = None if error is None else (type(error), error, error.__traceback__)
            _log.error("%s: %s (worker %d)", name, what, os.getpid(), exc_info=exc_info)
        elif str(count).strip("0") == "1":
            _log.error("%s: %s, %d times by now (worker %d)", name, what, count, os.getpid())
