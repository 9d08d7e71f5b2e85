"""How this process was started: enough to start the same program again, in the same surroundings."""

import os
import signal
import sys
from collections.abc import Collection, Iterable, Mapping

import msgspec

from ringblk.shm.platform.process_table import own_name

ADOPT_VARIABLE = "RINGBLK_ADOPT"
"""Names the descriptor by which a program that is started again learns what it is to go on with.

A number: that of a channel to the zygote. `UPGRADED` and numbers: of the program that was this process,
those of its configuration, of a process that the engine is to end with (-1: there is none), and of a list of
its sockets. `ASKED` and a number: that of a pipe, into which it says what it can go on with.
"""
UPGRADED = "upgraded:"
ASKED = "asked:"
NOTIFY_VARIABLE = "NOTIFY_SOCKET"
"""Set by a service manager, for its service's main process."""
_OF_ONE_PROCESS = (ADOPT_VARIABLE, "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
_DISPOSED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


class ProgramStart(msgspec.Struct, frozen=True, kw_only=True):
    """The program, its arguments, and what it has from whoever started it."""

    executable: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    """Without what is meant for one process alone."""
    name: str
    """As process listings show it."""
    ignored_signals: frozenset[int]
    """Of those that end a program, what it was started to ignore (nohup(1))."""
    blocked_signals: frozenset[int]

    @property
    def has_manager(self) -> bool:
        """Whether a service manager has started it that wants to know how things are going (sd_notify(3))."""
        return NOTIFY_VARIABLE in self.environment

    @classmethod
    def of_this_process(cls) -> "ProgramStart":
        """To be asked before anything of that is changed."""
        return cls(
            executable=sys.executable or sys.orig_argv[0],
            arguments=tuple(sys.orig_argv),
            environment={key: value for key, value in os.environ.items() if key not in _OF_ONE_PROCESS},
            name=own_name(),
            ignored_signals=frozenset(
                number for number in _DISPOSED_SIGNALS if signal.getsignal(number) == signal.SIG_IGN
            ),
            blocked_signals=frozenset(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        )

    def replace_this(self, added: Mapping[str, str], fds: Collection[int]) -> None:
        """Be the same program anew, in this process (execve(2)); as `again` has it. Raises `OSError`."""
        _set_inheritable(fds, is_inheritable=True)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.blocked_signals)
        try:
            os.execve(self.executable, self.arguments, {**self.environment, **added})
        finally:
            _set_inheritable(fds, is_inheritable=False)

    def again(self, added: Mapping[str, str], fds: Collection[int]) -> int:
        """Start it once more, as a child of this process; its process id. Raises `OSError`.

        `added` comes to its environment. It has `fds` under the same numbers, besides the standard streams.
        Its working directory is this process's.
        """
        _set_inheritable(fds, is_inheritable=True)
        try:
            return os.posix_spawn(
                self.executable,
                self.arguments,
                {**self.environment, **added},
                setsigmask=self.blocked_signals,
                setsigdef={*_DISPOSED_SIGNALS, *_IGNORED_BY_PYTHON} - self.ignored_signals,
            )
        finally:
            _set_inheritable(fds, is_inheritable=False)


def _set_inheritable(fds: Iterable[int], *, is_inheritable: bool) -> None:
    for fd in fds:
        os.set_inheritable(fd, is_inheritable)
