"""A program in a terminal of a certain size, and what stands on its screen."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from tests.rigs.child_process import ends_with_tests
from tests.rigs.engine_rig import DEADLINE_S, environment

CONTROL = re.compile(r"\x1b\[([?0-9;]*)([@A-Za-z])|\x1b[=>78]|\x1b\][^\x07]*\x07")


class Screen:
    """As much of a terminal as programs here use: text, cursor movement, erasing, alternate screen."""

    def __init__(self, columns: int, lines: int) -> None:
        self.columns = columns
        self.lines = lines
        self._rest = ""
        self.is_alternate = False
        self.is_cursor_shown = True
        self._clear()

    def resize(self, columns: int, lines: int) -> None:
        """What stood there is gone: who is told of another size draws anew."""
        self.columns, self.lines = columns, lines
        self._clear()

    def _clear(self) -> None:
        self._cells = [[" "] * self.columns for _ in range(self.lines)]
        self._line = self._column = 0

    def feed(self, text: str) -> None:
        text = self._rest + text
        self._rest = ""
        at = 0
        while at < len(text):
            if text[at] == "\x1b":
                match = CONTROL.match(text, at)
                if match is None:
                    self._rest = text[at:]
                    return
                self._obey(match)
                at = match.end()
            else:
                self._put(text[at])
                at += 1

    def _obey(self, match: re.Match[str]) -> None:
        arguments, order = match[1] or "", match[2]
        if arguments == "?1049":
            self.is_alternate = order == "h"
            self._clear()
        elif arguments == "?25":
            self.is_cursor_shown = order == "h"
        elif order == "H":
            line, _, column = arguments.partition(";")
            self._line, self._column = int(line or 1) - 1, int(column or 1) - 1
        elif order == "A":
            self._line = max(0, self._line - int(arguments or 1))
        elif order == "J" and arguments in ("", "0"):
            self._cells[self._line][self._column :] = [" "] * (self.columns - self._column)
            for below in range(self._line + 1, self.lines):
                self._cells[below] = [" "] * self.columns
        elif order == "J":
            at = self._line, self._column
            self._clear()
            self._line, self._column = at
        elif order == "K":
            first = 0 if arguments == "2" else self._column
            self._cells[self._line][first:] = [" "] * (self.columns - first)

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._feed_line()
        elif character >= " ":
            if self._column >= self.columns:
                self._column = 0
                self._feed_line()
            self._cells[self._line][self._column] = character
            self._column += 1

    def _feed_line(self) -> None:
        self._line += 1
        if self._line >= self.lines:
            self._line = self.lines - 1
            self._cells = [*self._cells[1:], [" "] * self.columns]

    @property
    def text(self) -> list[str]:
        return ["".join(cells).rstrip() for cells in self._cells]


class Terminal:
    """A program in it, until it ends or the test does."""

    def __init__(self, command: Sequence[str], columns: int = 80, lines: int = 24) -> None:
        self.screen = Screen(columns, lines)
        self._fd, other_fd = pty.openpty()
        self.resize(columns, lines)
        environment_here = {**environment(), "TERM": "xterm"}
        for name in ("COLUMNS", "LINES"):
            environment_here.pop(name, None)
        self.process = subprocess.Popen(
            ends_with_tests(command),
            stdin=other_fd,
            stdout=other_fd,
            stderr=other_fd,
            env=environment_here,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self._other_fd = other_fd  # kept: what the program leaves behind can be looked at

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def read(self, timeout_s: float = 0.0) -> bool:
        """Whether something was read."""
        ready, _, _ = select.select([self._fd], [], [], timeout_s)
        if ready:
            self.screen.feed(os.read(self._fd, 65536).decode(errors="replace"))
        return bool(ready)

    def wait_for(self, wanted: Callable[[list[str]], object]) -> list[str]:
        """Read until the screen is as wanted; the screen."""
        deadline = time.monotonic() + DEADLINE_S
        while not wanted(self.screen.text):
            assert time.monotonic() < deadline, "\n".join(self.screen.text)
            self.read(0.1)
        return self.screen.text

    def wait_end(self) -> int:
        """Read until the program ends; its exit status."""
        deadline = time.monotonic() + DEADLINE_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "\n".join(self.screen.text)
            self.read(0.01)
        while self.read():
            pass
        return self.process.returncode

    def is_canonical(self) -> bool:
        """Whether the terminal gives lines and echoes, as a shell left it."""
        flags = termios.tcgetattr(self._other_fd)[3]
        return bool(flags & termios.ICANON and flags & termios.ECHO)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        os.close(self._fd)
        os.close(self._other_fd)
