"""Who carries requests out, and why there is no io_uring, in words that say what to change."""

import contextlib
import errno
import os
from pathlib import Path

import pytest

from ringblk.engine.devices.io_plan import _uring_refusal, plan_io
from ringblk.workers.backends.file import FileBackend
from tests.rigs.stalling_file import stalling_file


@pytest.mark.parametrize(
    ("number", "sysctl", "seccomp_mode", "told"),
    [
        (errno.EPERM, "2", "0", "Operation not permitted: sysctl kernel.io_uring_disabled is 2"),
        (errno.EPERM, "1", "2", "Operation not permitted: sysctl kernel.io_uring_disabled is 1"),
        (errno.EPERM, "0", "2", "Operation not permitted: by a seccomp filter, such as a container's"),
        (errno.ENOSYS, "", "2", "Function not implemented: by a seccomp filter, such as a container's"),
        (errno.ENOSYS, "", "0", "Function not implemented: this kernel has none"),
        (errno.ENOMEM, "0", "2", "Cannot allocate memory"),
    ],
)
def test_who_refuses_io_uring_is_named(number: int, sysctl: str, seccomp_mode: str, told: str) -> None:
    error = OSError(number, os.strerror(number))
    problem = _uring_refusal(error, sysctl, seccomp_mode)
    assert problem.what == told
    assert problem.mend


def test_a_disk_in_user_space_keeps_no_dispatcher_waiting(tmp_path: Path) -> None:
    """The kernel carries out a write to FUSE while it is submitted, so the dispatcher would hang with it."""
    with (
        stalling_file(tmp_path, 1 << 20) as file,
        contextlib.closing(FileBackend(os.fspath(file.path))) as backend,
    ):
        plan = plan_io("auto", backend)
    assert (plan.name, plan.reason) == ("psync", "who asks fuse waits for it, with io_uring, too")
    assert backend.direct
