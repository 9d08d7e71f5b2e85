"""Why there is no io_uring, in words that say what to change."""

import errno
import os

import pytest

from ringblk.engine.io_plan import _uring_refusal


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
    assert _uring_refusal(error, sysctl, seccomp_mode) == told
