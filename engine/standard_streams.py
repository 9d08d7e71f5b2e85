"""Standard input, output and error of a program that was started without them."""

import os
import sys

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def open_standard_streams() -> None:
    """Open /dev/null in place of each of descriptors 0 to 2 that is closed.

    A program calls it before it opens anything: the next file, be it a guest's image, would get such a
    number, and whoever writes to standard error would write into it. Raises OSError without a /dev/null.
    """
    for fd, (name, mode) in enumerate(_STREAMS):
        if not _is_open(fd):
            opened = os.open(os.devnull, os.O_RDWR)
            assert opened == fd, f"descriptor {fd} is closed, and {opened} comes before it"
            os.set_inheritable(fd, True)
        if getattr(sys, name) is None:  # Python found it closed when it started
            stream = open(fd, mode, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
