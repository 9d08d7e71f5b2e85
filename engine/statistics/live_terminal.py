"""The terminal while a program has all of it: keys in, whole pages out, and left as it was found."""

import contextlib
import os
import re
import select
import signal
import sys
import termios
import tty
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any

from ringblk.engine.base.text_table import cut_text

KEYS = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1b[C": "right",
    "\x1b[D": "left",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1bOC": "right",
    "\x1bOD": "left",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    "\x1b[H": "home",
    "\x1b[1~": "home",
    "\x1bOH": "home",
    "\x1b[F": "end",
    "\x1b[4~": "end",
    "\x1bOF": "end",
}
"""What terminals send for keys that are no characters (xterm, "PC-Style Function Keys")."""
_KEY = re.compile(r"\x1b[\[O][0-9;]*[A-Za-z~]|[^\x1b]|\x1b(?![\[O]|$)")
_ENTER = "\x1b[?1049h\x1b[?25l"  # the other screen, no cursor (xterm, "DEC Private Mode Set")
_LEAVE = "\x1b[?25h\x1b[?1049l"
_INVERTED, _PLAIN = "\x1b[7m", "\x1b[m"
_ENDING = (signal.SIGTERM, signal.SIGHUP)


class TerminalEnded(Exception):  # noqa: N818
    """The program is told to end, or its terminal is gone; `exit_status` is what a shell would say."""

    def __init__(self, exit_status: int) -> None:
        super().__init__()
        self.exit_status = exit_status


class LiveTerminal:
    """Standard input and output. Keys are read where standard input is a terminal, too."""

    def __init__(self) -> None:
        self._has_keys = os.isatty(0)
        self._former: list[Any] = []
        self._unread = ""
        self._is_to_stop = False
        self._handlers: dict[signal.Signals, Any] = {}
        self._wake_read = self._wake_write = -1

    def __enter__(self) -> "LiveTerminal":
        self._wake_read, self._wake_write = os.pipe()
        for fd in (self._wake_read, self._wake_write):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGWINCH, signal.SIGTSTP, *_ENDING):
            self._handlers[number] = signal.signal(number, self._note)
        self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        os.close(self._wake_read)
        os.close(self._wake_write)
        self._give_back()

    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        size = os.get_terminal_size(sys.stdout.fileno())
        return size.columns or 80, size.lines or 24

    def draw(self, lines: Sequence[str], inverted: int | None = None) -> None:
        """Show a page, one of its lines inverted; a line that is too long loses its end."""
        columns, _ = self.size()
        shown = [cut_text(line, columns, "tail") for line in lines]
        if inverted is not None:
            shown[inverted] = f"{_INVERTED}{shown[inverted].ljust(columns)}{_PLAIN}"
        sys.stdout.write("\x1b[H" + "\r\n".join(f"{line}\x1b[K" for line in shown) + "\x1b[J")
        sys.stdout.flush()

    def keys(self, timeout_s: float) -> list[str] | None:
        """What is pressed in that time, as soon as something is; None: nothing was.

        Empty: the page is to be drawn anew. Raises `TerminalEnded`.
        """
        ends = [self._wake_read, *([0] if self._has_keys else [])]
        ready, _, _ = select.select(ends, [], [], timeout_s)
        if self._wake_read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
            if self._is_to_stop:
                self._stop()
            return []
        return self._read_keys() if ready else None

    def _read_keys(self) -> list[str]:
        try:
            data = os.read(0, 4096)
        except OSError:
            data = b""
        if not data:
            raise TerminalEnded(128 + signal.SIGHUP)
        self._unread += data.decode(errors="replace")
        found = []
        while match := _KEY.match(self._unread):
            found.append(KEYS.get(match[0], match[0]))
            self._unread = self._unread[match.end() :]
        return found

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number in _ENDING:
            raise TerminalEnded(128 + number)
        if number == signal.SIGTSTP:
            self._is_to_stop = True

    def _stop(self) -> None:
        """Ctrl-Z: give the terminal back, and take it again once this process goes on."""
        self._is_to_stop = False
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._take()

    def _take(self) -> None:
        if self._has_keys:
            self._former = termios.tcgetattr(0)
            tty.setcbreak(0)
        sys.stdout.write(_ENTER)
        sys.stdout.flush()

    def _give_back(self) -> None:
        with contextlib.suppress(OSError, termios.error):  # the terminal may be gone
            sys.stdout.write(_LEAVE)
            sys.stdout.flush()
        if self._has_keys:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(0, termios.TCSADRAIN, self._former)
