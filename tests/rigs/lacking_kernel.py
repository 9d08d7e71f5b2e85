"""A kernel that lacks system calls, or a container's filter that refuses them."""

import errno
import struct
from collections.abc import Callable

from ringblk.shm.platform import sandbox_calls


def a_kernel_without(*names: str, error: int = errno.ENOSYS) -> Callable[[], None]:
    """Have these system calls fail, here and in what is started from here."""
    numbers = [sandbox_calls.call_numbers()[name] for name in names]
    lines = [(0x20, 0, 0, 0)]  # load the call's number
    for number in numbers:
        lines += [(0x15, 0, 1, number), (0x06, 0, 0, 0x0005_0000 | error)]
    program = b"".join(struct.pack("=HBBI", *line) for line in [*lines, (0x06, 0, 0, 0x7FFF_0000)])

    def load() -> None:
        assert sandbox_calls.set_no_new_privs() == 0
        assert sandbox_calls.load_filter(program) == 0

    return load
