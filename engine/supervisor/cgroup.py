"""The control group (cgroup v2) that a drive's processes are put into.

It is the host's: it is there before the drive, with the limits that the host gives it, and stays after it.
Source: the kernel's Documentation/admin-guide/cgroup-v2.rst, "Processes" and "Threads".
"""

import contextlib
import errno
import logging
import os

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.program_error import ProgramError
from ringblk.workers.backends.file_waiting import file_system_of

_PROCESSES = "cgroup.procs"
_REASONS = {
    errno.EBUSY: "takes no processes, because it gives controllers on to its children: name one of those",
    errno.EOPNOTSUPP: "takes no processes: its cgroup.type is domain invalid",
    errno.ENODEV: "has been removed",
    errno.EACCES: "the engine may not move its processes there: it needs leave for the common ancestor, too",
}

_log = logging.getLogger(__name__)


class DriveCgroup:
    """An open control group; closed by who opened it."""

    def __init__(self, path: str) -> None:
        """Open it. Raises `ProgramError`."""
        self.path = path
        try:
            self._fd = os.open(os.path.join(path, _PROCESSES), os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            is_there = os.path.isdir(path) and error.errno == errno.ENOENT
            reason = f"no folder of cgroup v2: it has no {_PROCESSES}" if is_there else error.strerror
            raise ProgramError(f"--cgroup {path}: {reason}", ExitStatus.FAILED) from error
        if file_system_of(self._fd) != "cgroup2":
            self.close()
            raise ProgramError(f"--cgroup {path}: no folder of cgroup v2", ExitStatus.FAILED)
        self._has_taken = False

    def put(self, pid: int) -> None:
        """Have it account for a process that was just forked.

        Raises `OSError` where it has never taken one. Later the drive goes on outside, with a log line.
        """
        try:
            os.write(self._fd, str(pid).encode())
            self._has_taken = True
        except ProcessLookupError:
            return  # it has ended already, which who watches it sees
        except OSError as error:
            reason = f"--cgroup {self.path}: {_REASONS.get(error.errno or 0, error.strerror)}"
            if not self._has_taken:
                raise OSError(error.errno, reason) from error
            _log.error("process %d runs outside of its control group: %s", pid, reason)

    def close(self) -> None:
        """Let go of it; the processes stay in it. It may be closed already."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)
