"""What the system that the build is for has of what ringblk asks (docs/portability.md)."""

import os

from ringblk.engine.doctor.check import CheckResult, failure, ok, warning
from ringblk.engine.doctor.host_checks import Need
from ringblk.shm.platform.process import watch_process

LACKING = "io_uring, sandbox, shared folders, NBD or `ringblk upgrade`; drives end with the control plane"


def check_forms(_: Need) -> CheckResult:
    """That there are portable forms alone, and what that means."""
    return warning("system", f"portable forms: no {LACKING}", "Linux has all of it; docs/portability.md")


def check_watching(_: Need) -> CheckResult:
    """What an engine knows its processes' ends by: a child is made, and seen to end."""
    name = "watching processes"
    child = os.fork()
    if child == 0:
        os._exit(0)
    try:
        os.close(watch_process(child))
    except OSError as error:
        return failure(
            name, f"child processes cannot be watched: {error.strerror or error}", "see open files"
        )
    finally:
        os.waitpid(child, 0)
    return ok(name, "the ends of children are told")
