"""What a back end that was started here says on its standard error: passed on, and its last words kept."""

import contextlib
import os
import threading

_PART_BYTES = 65536
_KEPT_BYTES = 4096
_STDERR = 2


class ErrorOutput:
    """A pipe for a program's standard error; what comes out of it goes to this process's own at once.

    `write_fd` is for the program: begin() closes it here and starts the thread that reads. A program that
    writes never waits for the one that started it, unless nobody takes what that one writes.
    """

    def __init__(self) -> None:
        self._read_fd, self.write_fd = os.pipe()
        self._kept = bytearray()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """The program has its end."""
        os.close(self.write_fd)
        self._thread = threading.Thread(
            target=_pass_on, args=(self._read_fd, self._kept), name="ringblk-stderr", daemon=True
        )
        self._thread.start()

    def cancel(self) -> None:
        """There is no program after all."""
        os.close(self.write_fd)
        os.close(self._read_fd)

    def last_line(self, timeout_s: float) -> str:
        """The last line of all that was said; waits so long for who may still say something."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        lines = bytes(self._kept).decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def abandon(self) -> None:
        """In a forked child, which has no thread: let go of the pipe, which stays the parent's."""
        if self._thread is not None and self._read_fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._read_fd)
            self._read_fd = -1


def _pass_on(read_fd: int, kept: bytearray) -> None:
    """Copy until the last who may write has ended. It holds nothing of the front end, which may be gone."""
    with contextlib.suppress(OSError):
        while part := os.read(read_fd, _PART_BYTES):
            kept += part
            del kept[:-_KEPT_BYTES]
            _write_all(part)
    os.close(read_fd)


def _write_all(data: bytes) -> None:
    with contextlib.suppress(OSError):  # nobody reads it: the program that speaks is none the worse for it
        while data:
            data = data[os.write(_STDERR, data) :]
