# cython: language_level=3
"""What a process does to itself, on every system alike."""

from libc.signal cimport SIG_IGN, signal

from ringblk.shm.sync.crash_point cimport crash_point as c_crash_point


def ignore_signal(number: int) -> None:
    """Have the kernel drop this signal, whoever catches it in Python.

    In a forked child this is lighter than `signal.signal`, which writes to many pages shared with the parent.
    """
    signal(number, SIG_IGN)


def crash_point(name: str) -> None:
    """A named step where a test can end this process; nothing but a call as users build it (crash_point.pxd)."""
    c_crash_point(name.encode())
