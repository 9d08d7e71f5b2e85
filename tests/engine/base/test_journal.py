"""The journal is told how grave a line is; nobody else sees a prefix."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ringblk.engine.base.journal import is_journal, priority_prefix

LOGS = """
import logging, sys
from ringblk.engine.base.log_format import start_logging
start_logging(sys.argv[1])
logging.getLogger("ringblk").warning("it is so")
logging.getLogger("ringblk").error("so it is")
"""


def logged(path: Path, log_format: str, journal: str) -> list[str]:
    """Two lines as they are written to a file, with what JOURNAL_STREAM says."""
    with path.open("wb") as log:
        info = os.fstat(log.fileno())
        stream = {"this": f"{info.st_dev}:{info.st_ino}", "another": f"{info.st_dev}:1", "none": ""}[journal]
        environment = {**os.environ, "JOURNAL_STREAM": stream}
        command = [sys.executable, "-c", LOGS, log_format]
        subprocess.run(command, stderr=log, env=environment, check=True, timeout=60)
    return path.read_text().splitlines()


@pytest.mark.parametrize(
    ("log_format", "journal", "prefixes"),
    [
        ("human", "this", ["<4>ringblk[", "<3>ringblk["]),
        ("human", "another", ["ringblk["] * 2),
        ("human", "none", ["ringblk["] * 2),
        ("json", "this", ['{"time":'] * 2),
    ],
)
def test_lines(tmp_path: Path, log_format: str, journal: str, prefixes: list[str]) -> None:
    lines = logged(tmp_path / "log", log_format, journal)
    assert [line.startswith(prefix) for line, prefix in zip(lines, prefixes, strict=True)] == [True, True]


def test_every_level_has_a_priority() -> None:
    levels = (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)
    assert [priority_prefix(level) for level in levels] == ["<2>", "<3>", "<4>", "<6>", "<7>"]


def test_a_closed_descriptor_is_no_journal() -> None:
    assert not is_journal(1 << 20, {"JOURNAL_STREAM": "1:1"})
