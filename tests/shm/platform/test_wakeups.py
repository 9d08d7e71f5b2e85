"""Wake-up descriptors, in whichever form is built."""

import os
import select
import socket
from pathlib import Path

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
    assert wakeup_fault(fd) is None
    with socket.socket() as other, (tmp_path / "file").open("w") as file:
        what = "no eventfd, but" if LINUX else "no pipe, but"
        assert (wakeup_fault(other.fileno()) or "").startswith(what)
        assert (wakeup_fault(file.fileno()) or "").startswith(what)
    os.close(fd)
