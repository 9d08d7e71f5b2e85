"""`ringblk top` in a terminal: keys, sizes, and a terminal that is left as it was."""

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringblk.shm.state.segment import SEGMENT_PREFIX, StateSegment
from ringblk.workers.block.parser import OPERATION_NAMES
from tests.rigs.engine_rig import DEADLINE_S, MEMORY, Engine
from tests.rigs.terminal import Terminal

RINGBLK = str(Path(sys.executable).with_name("ringblk"))
COUNT = 40
NEVER = "--interval=3600"
"""No second look: what changes is by keys."""


@pytest.fixture(scope="module")
def drives() -> Iterator[list[str]]:
    """Drives of no engine, by names that nobody else has."""
    tag = uuid.uuid4().hex[:6]
    names = [f"/top-{tag}/{number:02}" for number in range(COUNT)]
    with contextlib.ExitStack() as segments:
        for index, drive in enumerate(names):
            name = f"{SEGMENT_PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}"
            state = StateSegment.create(name, 64, 16, "block", OPERATION_NAMES)
            segments.callback(state.close)
            state.set_engine("", drive, 1_000_000 + index, 1, 0)
        yield names


def shown(screen: list[str], drives: list[str]) -> list[str]:
    """Which of them stand there, in order."""
    return [words[0] for line in screen if (words := line.split()) and words[0] in drives]


def by_drive(terminal: Terminal) -> list[str]:
    """Have it in the order of names; the screen."""
    terminal.wait_for(lambda screen: "IOPS▼" in screen[1])
    terminal.press("\x1b[D\x1b[D")
    return terminal.wait_for(lambda screen: "drive▲" in screen[1])


def test_many_drives_are_scrolled(drives: list[str]) -> None:
    with Terminal([RINGBLK, "top", NEVER]) as terminal:
        by_drive(terminal)
        screen = terminal.wait_for(lambda screen: screen[-1].startswith("drives 1-21 of "))
        first = screen[2:-1]
        assert max(map(len, screen)) <= 80
        assert f", {int(screen[-1].split()[3].strip(',')) - 21} hidden  q quit" in screen[-1]
        assert "1000000" not in "".join(screen)  # the process id has no room
        terminal.press("\x1b[6~")  # the last line is drawn last
        screen = terminal.wait_for(lambda screen: not screen[-1].startswith("drives 1-21 of "))
        assert set(first) != set(screen[2:-1])
        terminal.press("\x1b[H")
        screen = terminal.wait_for(lambda screen: screen[-1].startswith("drives 1-21 of "))
        assert screen[2:-1] == first
        terminal.press("j")
        screen = terminal.wait_for(lambda screen: screen[-1].startswith("drives 2-22 of "))
        assert screen[2:-2] == first[1:]
        terminal.press("G")
        screen = terminal.wait_for(lambda screen: shown(screen, drives)[-1:] == drives[-1:])
        terminal.press("r")
        terminal.wait_for(lambda screen: "drive▼" in screen[1])
        terminal.press("q")
        assert terminal.wait_end() == 0


def test_rows_are_put_in_order_by_any_column(drives: list[str]) -> None:
    with Terminal([RINGBLK, "top", NEVER]) as terminal:
        terminal.wait_for(lambda screen: "IOPS▼" in screen[1])
        terminal.press("\x1b[D" * 3)  # round the end
        screen = terminal.wait_for(
            lambda screen: "pid▼" in screen[1] and last_column_is(screen, reverse=True)
        )
        assert str(1_000_000 + COUNT - 1) in [line.split()[-1] for line in screen[2:-1]]
        terminal.press("r")
        terminal.wait_for(lambda screen: "pid▲" in screen[1] and last_column_is(screen, reverse=False))


def last_column_is(screen: list[str], *, reverse: bool) -> bool:
    """Whether all rows have a number there, in that order: the screen may be looked at half-way."""
    words = [line.split()[-1] for line in screen[2:-1] if line]
    if not words or not all(word.isdecimal() for word in words):
        return False
    ids = [int(word) for word in words]
    return ids == sorted(ids, reverse=reverse)


def test_another_size_of_the_terminal_is_another_page(drives: list[str]) -> None:
    with Terminal([RINGBLK, "top", NEVER]) as terminal:
        terminal.wait_for(lambda screen: "IOPS▼" in screen[1])
        terminal.screen.resize(200, COUNT + 30)
        terminal.resize(200, COUNT + 30)
        screen = terminal.wait_for(lambda screen: sorted(shown(screen, drives)) == drives)
        assert "pid" in screen[1]


def test_the_terminal_is_left_as_it_was(drives: list[str]) -> None:
    for end, status in (("q", 0), ("\x03", 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)):
        with Terminal([RINGBLK, "top", NEVER]) as terminal:
            terminal.wait_for(lambda screen: "IOPS▼" in screen[1])
            assert terminal.screen.is_alternate
            assert not terminal.screen.is_cursor_shown
            assert not terminal.is_canonical()
            if isinstance(end, str):
                terminal.press(end)
            else:
                terminal.process.send_signal(end)
            assert terminal.wait_end() == status
            assert terminal.is_canonical()
            assert not terminal.screen.is_alternate
            assert terminal.screen.is_cursor_shown
            assert "".join(terminal.screen.text) == ""


def test_it_stops_and_goes_on(drives: list[str]) -> None:
    with Terminal([RINGBLK, "top", NEVER]) as terminal:
        terminal.wait_for(lambda screen: "IOPS▼" in screen[1])
        terminal.press("\x1a")  # Ctrl-Z
        _, status = os.waitpid(terminal.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        terminal.wait_for(lambda screen: not any(screen))
        assert terminal.is_canonical()
        assert not terminal.screen.is_alternate
        terminal.process.send_signal(signal.SIGCONT)
        terminal.wait_for(lambda screen: "IOPS▼" in screen[1])
        terminal.press("q")
        assert terminal.wait_end() == 0


def test_a_key_that_comes_in_pieces_is_one(drives: list[str]) -> None:
    with Terminal([RINGBLK, "top", NEVER]) as terminal:
        terminal.wait_for(lambda screen: "IOPS▼" in screen[1])
        for piece in ("\x1b", "[", "C"):
            terminal.press(piece)
            terminal.read(0.01)
        terminal.wait_for(lambda screen: "read▼" in screen[1])


def test_one_engine_is_shown_with_all_there_is_and_looked_at_again() -> None:
    with Engine(*MEMORY) as engine:
        with Terminal([RINGBLK, "top", str(engine.process.pid), "--interval=0.05"]) as terminal:
            terminal.wait_for(lambda screen: screen[0].startswith("memory  1.00 MiB"))
            engine.say_hello()
            terminal.press("q")
            assert terminal.wait_end() == 0
        with Terminal([RINGBLK, "top", str(engine.process.pid), NEVER], lines=8) as terminal:
            screen = terminal.wait_for(lambda screen: "hidden" in screen[-1])
            assert screen[0].startswith("memory")
            terminal.press("G")
            terminal.wait_for(lambda screen: not screen[0].startswith("memory"))


def test_an_engine_that_ends_is_said_to() -> None:
    with Engine(*MEMORY) as engine:
        pid = str(engine.process.pid)
        with Terminal([RINGBLK, "top", pid, "--interval=0.05"]) as terminal:
            terminal.wait_for(lambda screen: screen[0].startswith("memory"))
            engine.end()
            assert terminal.wait_end() == 1
            assert f"ringblk: no engine {pid} runs here" in terminal.screen.text


def test_frames_for_a_pipe(drives: list[str]) -> None:
    done = subprocess.run(
        [RINGBLK, "top", "--frames=2", "--interval=0.05"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    assert "\x1b" not in done.stdout
    for drive in drives:
        assert done.stdout.count(drive) == 2
