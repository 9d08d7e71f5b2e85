"""Log lines: one an event, for people or as JSON, and few however often the same thing happens.

What a guest or a front end can cause, it can cause without end. So each message, by its text before the
values are put in, is written `FREE_LINES` times and then only when its count is a power of two, until it has
been quiet for a while. A log grows by a few lines a message and not with the number of events.

A line holds no control characters, whoever chose its words. What happens to one drive of several is told with
its name (`drive_in_log`).
"""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

import msgspec

from ringblk.engine.base.journal import is_journal, priority_prefix
from ringblk.engine.base.printable_text import printable

LogFormat = Literal["human", "json"]
FREE_LINES = 10
QUIET_S = 600.0
MAX_MESSAGES = 1000
"""Different messages kept count of; beyond, the one that came first is forgotten."""

_drive: ContextVar[str] = ContextVar("drive", default="")


@contextlib.contextmanager
def drive_in_log(name: str) -> Iterator[None]:
    """What is logged meanwhile, and in tasks and processes that begin meanwhile, is of this drive."""
    former = _drive.set(name)
    try:
        yield
    finally:
        _drive.reset(former)


def name_drive_in_log(name: str) -> None:
    """All that is logged from now on is of this drive."""
    _drive.set(name)


def current_drive_in_log() -> str:
    """The drive that what is logged now is of."""
    return _drive.get()


class DriveFilter(logging.Filter):
    """Says of each record which drive it is of; "" for the engine itself, and for the only drive."""

    def filter(self, record: logging.LogRecord) -> bool:
        """True; `record.drive` is set."""
        record.drive = _drive.get()
        return True


class RepeatFilter(logging.Filter):
    """Lets through what is new, and of what repeats a line at each power of two, with the count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[str, str, int, object], tuple[int, float]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write the record; what it leaves out shows as `repeated` in the next that is written."""
        key = (_drive_of(record), record.name, record.levelno, record.msg)
        now_s = self._clock()
        count, last_s = self._seen.get(key, (0, now_s))
        if now_s - last_s > QUIET_S:
            count = 0
        count += 1
        if len(self._seen) >= MAX_MESSAGES and key not in self._seen:
            del self._seen[next(iter(self._seen))]
        self._seen[key] = (count, now_s)
        record.repeated = count
        return count <= FREE_LINES or count & (count - 1) == 0


class HumanFormatter(logging.Formatter):
    """`ringblk[PID] LEVEL: message`, on one line; the drive's name before the message where it has one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        text = f"ringblk[{record.process}] {record.levelname}: {_told_drive(record)}{_message(record)}"
        if record.exc_info:
            text += " | " + self.formatException(record.exc_info)
        return " | ".join(_printable_lines(text))


class JournalFormatter(HumanFormatter):
    """The same, for systemd's journal: its priority comes first, which the journal takes off."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return priority_prefix(record.levelno) + super().format(record)


class _JsonLine(msgspec.Struct, omit_defaults=True):
    time: str
    level: str
    pid: int | None
    source: str
    message: str
    drive: str = ""
    repeated: int = 0
    exception: str = ""


class JsonFormatter(logging.Formatter):
    """One JSON object: time (UTC), level, pid, source, message; drive, repeated, exception if any."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        repeated = _repeated(record)
        line = _JsonLine(
            datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            record.levelname.lower(),
            record.process,
            record.name,
            "\n".join(_printable_lines(record.getMessage())),
            _drive_of(record),
            repeated,
            "\n".join(_printable_lines(self.formatException(record.exc_info))) if record.exc_info else "",
        )
        return msgspec.json.encode(line).decode()


def start_logging(log_format: LogFormat) -> None:
    """Log to stderr from now on, in this process and those forked from it."""
    handler = logging.StreamHandler(sys.stderr)
    is_to_journal = is_journal(sys.stderr.fileno(), os.environ)
    human = JournalFormatter if is_to_journal else HumanFormatter
    handler.setFormatter(JsonFormatter() if log_format == "json" else human())
    handler.addFilter(DriveFilter())
    handler.addFilter(RepeatFilter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _printable_lines(text: str) -> list[str]:
    """Whatever a guest, a front end or a library has put into it."""
    return [printable(line) for line in text.rstrip("\n").split("\n")]


def _repeated(record: logging.LogRecord) -> int:
    """How often it has happened, where lines are being left out; 0 otherwise."""
    count: int = getattr(record, "repeated", 0)
    return count if count > FREE_LINES else 0


def _drive_of(record: logging.LogRecord) -> str:
    drive: str = getattr(record, "drive", "")
    return drive


def _told_drive(record: logging.LogRecord) -> str:
    return f"{drive}: " if (drive := _drive_of(record)) else ""


def _message(record: logging.LogRecord) -> str:
    count = _repeated(record)
    return record.getMessage() + (f" ({count} such lines so far, most left out)" if count else "")
