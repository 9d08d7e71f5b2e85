"""Log lines: one an event, as text or JSON, and few of what repeats."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from ringblk.engine.base.log_format import (
    FREE_LINES,
    MAX_MESSAGES,
    QUIET_S,
    DriveFilter,
    HumanFormatter,
    JsonFormatter,
    RepeatFilter,
    drive_in_log,
)


class Log:
    """A logger whose lines are kept, on a clock that is set."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self.now_s = 0.0
        self._stream = io.StringIO()
        self.handler = logging.StreamHandler(self._stream)
        self.handler.setFormatter(formatter)
        self.handler.addFilter(DriveFilter())
        self.filter = RepeatFilter(lambda: self.now_s)
        self.handler.addFilter(self.filter)
        self.logger = logging.Logger("ringblk.test_log_format")  # no parent shows its lines as well
        self.logger.addHandler(self.handler)
        self.logger.setLevel(logging.INFO)

    @property
    def lines(self) -> list[str]:
        return self._stream.getvalue().splitlines()


@pytest.fixture(params=[HumanFormatter, JsonFormatter])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    log = Log(request.param())
    yield log
    log.logger.removeHandler(log.handler)


def test_a_line_tells_its_drive(log: Log) -> None:
    log.logger.info("of the engine")
    with drive_in_log("vm1"):
        log.logger.info("of a drive")
        with drive_in_log("vm2"):
            log.logger.info("of another")
        log.logger.info("of the first again")
    human = [None, "vm1", "vm2", "vm1"]
    for line, drive in zip(log.lines, human, strict=True):
        if isinstance(log.handler.formatter, HumanFormatter):
            assert f"INFO: {drive}: of" in line if drive else "INFO: of the engine" in line
        else:
            assert json.loads(line).get("drive") == drive


def test_what_repeats_is_counted_for_each_drive(log: Log) -> None:
    for name in ("vm1", "vm2"):
        with drive_in_log(name):
            for _ in range(FREE_LINES + 3):
                log.logger.warning("again")
    assert len(log.lines) == 2 * FREE_LINES


def test_an_exception_takes_one_line(log: Log) -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        log.logger.exception("it failed:\nso it did")
    assert len(log.lines) == 1
    assert "ValueError" in log.lines[0]
    assert "second" in log.lines[0]


NASTY = "\x1b[31mred\rringblk[1] INFO: all is well\x85\u2028\u202e\x7f\x9b2J\x00\udcff"


def test_no_control_character_and_nothing_that_cannot_be_encoded(log: Log) -> None:
    try:
        raise ValueError(NASTY)
    except ValueError:
        log.logger.exception("a front end calls it %s", NASTY)
    (line,) = log.lines
    assert line.isprintable()
    shown = json.loads(line)["message"] if line.startswith("{") else line
    escaped = r"\x1b[31mred\rringblk[1] INFO: all is well\x85\u2028\u202e\x7f\x9b2J\x00\udcff"
    assert f"a front end calls it {escaped}" in shown


def test_text_in_any_language_stays_as_it_is(log: Log) -> None:
    log.logger.error("no such file: %s", "/srv/Füße/磁盘 1.img")
    assert "no such file: /srv/Füße/磁盘 1.img" in log.lines[0]


def test_a_guest_that_repeats_itself_writes_few_lines(log: Log) -> None:
    for number in range(100_000):
        log.logger.error("queue %d is broken", number)
    assert FREE_LINES <= len(log.lines) <= FREE_LINES + 17
    assert "65536" in log.lines[-1]  # how often it has happened


def test_other_messages_pass_meanwhile(log: Log) -> None:
    for _ in range(1000):
        log.logger.error("the same")
    before = len(log.lines)
    log.logger.error("another")
    log.logger.warning("the same")  # of another level
    assert len(log.lines) == before + 2


def test_what_was_quiet_is_news_again(log: Log) -> None:
    for _ in range(1000):
        log.logger.error("again")
    before = len(log.lines)
    log.now_s += QUIET_S
    log.logger.error("again")
    assert len(log.lines) == before
    log.now_s += QUIET_S + 1
    log.logger.error("again")
    assert len(log.lines) == before + 1
    assert "left out" not in log.lines[-1]
    assert "repeated" not in log.lines[-1]


def test_messages_without_end_take_no_memory_without_end(log: Log) -> None:
    for number in range(3 * MAX_MESSAGES):
        log.logger.error(f"message {number}")
    assert len(log.filter._seen) == MAX_MESSAGES


def test_json_lines_are_objects() -> None:
    log = Log(JsonFormatter())
    try:
        log.logger.warning("worker %d died: %s", 3, 'killed by "SIGKILL"')
    finally:
        log.logger.removeHandler(log.handler)
    line = json.loads(log.lines[0])
    assert line["level"] == "warning"
    assert line["message"] == 'worker 3 died: killed by "SIGKILL"'
    assert line["time"].endswith("+00:00")
    assert set(line) == {"time", "level", "pid", "source", "message"}
