"""Whether dispatcher and workers can be held to what they need."""

import errno
import os
import sys

from ringblk.engine.doctor.check import CheckResult, failure, ok, warning
from ringblk.engine.doctor.host_checks import Need
from ringblk.shm.platform import sandbox_calls as calls
from ringblk.workers.sandbox.confinement import SandboxError
from ringblk.workers.sandbox.sandbox import Sandbox
from ringblk.workers.sandbox.syscall_filter import DISPATCHER_CALLS, FILE_CALLS, URING_CALLS

_NEWEST_LANDLOCK = 6
_LANDLOCK_MENDS = {
    errno.EOPNOTSUPP: "add landlock to lsm= on the kernel's command line",
    errno.ENOSYS: "Linux 5.13 or later with CONFIG_SECURITY_LANDLOCK; in a container, allow landlock_* calls",
}


def check_landlock(_: Need) -> CheckResult:
    """What keeps files, network and other processes away."""
    version = calls.landlock_version()
    if version < 0:
        mend = _LANDLOCK_MENDS.get(-version, "allow landlock_* calls in the container's seccomp profile")
        what = f"none: {os.strerror(-version)}; processes are not held off files and network"
        return warning("Landlock", what, mend)
    if version < _NEWEST_LANDLOCK:
        return ok("Landlock", f"version {version}, {_NEWEST_LANDLOCK} (Linux 6.12) holds off more")
    return ok("Landlock", f"version {version}")


def check_seccomp(_: Need) -> CheckResult:
    """What keeps system calls away that are not needed."""
    if problem := calls.seccomp_problem():
        mend = "a kernel with CONFIG_SECCOMP_FILTER, on x86-64 or 64-bit ARM"
        return warning("seccomp", f"no filters: {os.strerror(-problem)}", mend)
    return ok("seccomp", "filters can be loaded")


def check_sandbox(_: Need) -> CheckResult:
    """A process goes into it, as an engine's children do."""
    try:
        sandbox = Sandbox(confines=True, storage_calls=FILE_CALLS)
        problem = _problem_inside(sandbox)
    except OSError as error:
        problem = str(error.strerror or error)
    if problem:
        return failure("sandbox", f"a process cannot go into it: {problem}", "--sandbox=off does without")
    if sandbox.missing:
        missing = " and no ".join(sandbox.missing)
        return warning("sandbox", f"without {missing}", "see above; --sandbox=on insists on all of it")
    return ok("sandbox", "a process can go into it")


def _problem_inside(sandbox: Sandbox) -> str:
    """Why a child cannot go into the sandbox; nothing where it can."""
    told_fd, tells_fd = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(told_fd)
            sandbox.privileges.drop()
            sandbox.confinement(DISPATCHER_CALLS, URING_CALLS).confine(sandbox.ruleset_fd)
            status = 0
        except (OSError, SandboxError) as error:
            os.write(tells_fd, str(error).encode())
        finally:
            os._exit(status)
    os.close(tells_fd)
    with os.fdopen(told_fd, "rb") as told:
        problem = told.read().decode(errors="replace")
    _, wait_status = os.waitpid(child, 0)
    return problem or ("" if wait_status == 0 else f"it ended with wait status {wait_status:#x}")
