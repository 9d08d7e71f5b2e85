"""Drives in tables and lines, also those of which little can be said."""

from typing import Any

import pytest

from ringblk.engine.client.drive_view import drive_lines, list_lines, state_text

RUNNING: dict[str, Any] = {
    "blk_file": "/images/" + "x" * 100,
    "iops": 5,
    "partuuid": None,
    "read_only": False,
    "backend_arg": {},
    "state": {
        "name": "vm1",
        "state": "running",
        "storage": "/images/" + "x" * 100,
        "size_bytes": (1 << 63) - 512,
        "is_paused": False,
        "is_connected": True,
        "uptime_s": 9999 * 86400.0,
        "limits": [],
        "processes": {"dispatcher": 7},
    },
}
FAILED = {
    "blk_file": "/x",
    "state": {"name": "bad", "state": "failed", "reason": "killed\n\x1b[2J by SIGSEGV"},
}


def test_a_drive_that_failed_says_why() -> None:
    titles, bad, good = list_lines({"vm1": RUNNING, "bad": FAILED}, None)
    assert titles.split() == ["drive", "state", "size", "up", "image", "reason"]
    assert bad.split(maxsplit=4) == ["bad", "failed", "-", "-", r"killed\n\x1b[2J by SIGSEGV"]
    assert good.split()[:5] == ["vm1", "connected", "8388608", "TiB", "9999d00h"]


def test_no_reason_has_no_column() -> None:
    assert "reason" not in list_lines({"vm1": RUNNING}, None)[0]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_numbers_are_whole_at_any_width(width: int) -> None:
    lines = list_lines({"vm1": RUNNING, "bad": FAILED}, width)
    assert max(map(len, lines)) <= width
    assert " 8388608 TiB  9999d00h  " in lines[2]


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"state": "running", "is_connected": True}, "connected"),
        ({"state": "running", "is_connected": True, "is_paused": True}, "paused"),
        ({"state": "running"}, "waiting"),
        ({"state": "ending", "is_connected": True}, "ending"),
        ({"state": "failed"}, "failed"),
    ],
)
def test_a_state_is_a_word(state: dict[str, Any], text: str) -> None:
    assert state_text(state) == text


def test_settings_are_those_that_are_set() -> None:
    lines = [line.split(maxsplit=1) for line in drive_lines("vm1", RUNNING)]
    assert ["size", f"8388608 TiB ({(1 << 63) - 512} bytes)"] in lines
    assert ["limits", "none"] in lines
    assert ["processes", "dispatcher 7"] in lines
    assert ["read_only", "no"] in lines
    assert ["backend_arg", "{}"] in lines
    assert "partuuid" not in [line[0] for line in lines if line]


def test_what_others_wrote_is_text_and_no_more() -> None:
    assert "\x1b" not in "".join(drive_lines("bad", FAILED))
