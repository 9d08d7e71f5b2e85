"""What one child is told of its sandbox, and how it goes into it.

It does so in two steps, both before it has mapped any guest memory: `Privileges.drop`, then, after a user's
backend has had its `start_worker`, `confine`. Nothing leads out again.
"""

import logging
import os

import msgspec

from ringblk.shm.platform import sandbox_calls
from ringblk.shm.platform.process_table import own_thread_count
from ringblk.workers.sandbox.process_user import ProcessUser
from ringblk.workers.sandbox.syscall_filter import call_name, own_program

_log = logging.getLogger(__name__)


class SandboxError(Exception):
    """The sandbox cannot be had. The message says what is missing: do without it, or use another kernel."""


class Privileges(msgspec.Struct, frozen=True):
    """What a process gives up for good, as plain data."""

    confines: bool
    """Whether it gives up capabilities, and every way to new ones."""
    user: ProcessUser | None
    """Whom it is to run as, where that is asked for."""
    kept_capabilities: int = 0
    """Those that its work needs, a bit each (capabilities(7)), as far as it has them."""

    def drop(self) -> None:
        """Take on the user, and give the rest up. Raises `OSError`."""
        if self.confines:
            sandbox_calls.drop_bounding_set()
        if self.kept_capabilities and os.geteuid() == 0:
            check_call("prctl(PR_SET_SECUREBITS)", sandbox_calls.keep_capabilities())
        if self.user is not None:
            self.user.take_on()
        if self.confines:
            check_call("capset", sandbox_calls.drop_capabilities(self.kept_capabilities))
            check_call("prctl(PR_SET_NO_NEW_PRIVS)", sandbox_calls.set_no_new_privs())


class Confinement(msgspec.Struct, frozen=True, kw_only=True):
    """A sandbox (`Sandbox`) for one kind of process, as plain data."""

    privileges: Privileges
    program: bytes
    """The filter of system calls (`filter_program`); empty: none."""
    has_ruleset: bool
    """Whether there are rules of Landlock's, as a descriptor."""
    forbids_threads: bool
    """Whether a thread that runs already would stay outside."""

    def confine(self, ruleset_fd: int) -> None:
        """Hold this process to its files and system calls, for good; the rules are closed.

        Raises `SandboxError` and `OSError`.
        """
        if self.forbids_threads:
            _check_threads()
        if self.has_ruleset:
            check_call("landlock_restrict_self", sandbox_calls.landlock_enter(ruleset_fd))
            os.close(ruleset_fd)
        if self.program:
            check_call("seccomp", sandbox_calls.load_filter(own_program(self.program)))


def _check_threads() -> None:
    """Landlock and seccomp are of threads: one that runs already would stay outside."""
    if own_thread_count() > 1:
        raise SandboxError(
            "the backend's start_worker has started threads, which would stay outside of the sandbox:"
            " start them with the first request, or use --sandbox=off"
        )


def report_refused(who: str) -> None:
    """Log the system calls that the sandbox has refused to this process, each of them once."""
    for number in sandbox_calls.take_refused():
        _log.error("%s: the sandbox refuses %s", who, call_name(number))


def check_call(call: str, result: int) -> int:
    """The boundary between errno and exceptions."""
    if result < 0:
        raise OSError(-result, f"{call}: {os.strerror(-result)}")
    return result
