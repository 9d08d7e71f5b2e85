"""Wake-up descriptors, in whichever form is built."""

import os
import select
import socket
from pathlib import Path

import pytest

from ringblk.shm.platform.form import LINUX
from ringblk.shm.platform.wakeups import make_wakeup, wakeup_fault, write_wakeup


def is_written(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def test_many_wakeups_are_one() -> None:
    fd = make_wakeup()
    assert not is_written(fd)
    for _ in range(3):
        write_wakeup(fd)
    assert is_written(fd)
    os.read(fd, 512)
    assert not is_written(fd)
    os.close(fd)


def test_a_full_one_holds_nobody_up() -> None:
    fd = make_wakeup()
    for _ in range(10_000):  # a pipe has room for 65536 bytes
        write_wakeup(fd)
    assert is_written(fd)
    os.close(fd)


def test_a_wakeup_descriptor_is_told_from_others(tmp_path: Path) -> None:
    fd = make_wakeup()
    with socket.socket() as other, (tmp_path / "file").open("w") as file:
        what = "no eventfd, but" if LINUX else "no pipe, but"
        for is_read in (True, False):
            assert wakeup_fault(fd, is_read=is_read) is None
            for foreign in (other, file):
                assert (wakeup_fault(foreign.fileno(), is_read=is_read) or "").startswith(what)
    os.close(fd)


@pytest.mark.skipif(LINUX, reason="a pipe is no wake-up descriptor of this form")
def test_an_end_of_a_pipe_is_for_one_side() -> None:
    reads, writes = os.pipe()
    assert wakeup_fault(reads, is_read=True) is None
    assert wakeup_fault(writes, is_read=False) is None
    assert wakeup_fault(reads, is_read=False) == "the reading end of a pipe"
    assert wakeup_fault(writes, is_read=True) == "the writing end of a pipe"
    os.close(reads)
    os.close(writes)
