"""Standard input, output and error of a program that was started without them."""

import io
import os
import sys
from typing import BinaryIO, cast

from ringblk.engine.base.pipe_io import PipeWriter

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
    if sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = _written_wholly(sys.stdout)


def _written_wholly(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """A text stream like this one that loses nothing where its descriptor takes less than it was given.

    Python's own, without a buffer of its own (PYTHONUNBUFFERED), passes over what a write leaves, and fails
    where the descriptor is non-blocking, which another program that has it too may have made it.
    """
    raw = PipeWriter(stream.fileno())
    return io.TextIOWrapper(
        cast(BinaryIO, raw if stream.write_through else io.BufferedWriter(raw)),
        stream.encoding,
        stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
