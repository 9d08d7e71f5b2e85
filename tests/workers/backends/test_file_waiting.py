"""Which file system a file is on, whatever else is mounted."""

import os
from pathlib import Path

from ringblk.workers.backends.file_waiting import file_system_type

DEVICE = os.makedev(0, 77)
LINE = b"36 35 0:77 / /data rw,noatime shared:1 master:2 - fuse.sshfs host: rw\n"


def test_the_type_stands_behind_what_is_optional() -> None:
    assert file_system_type(DEVICE, LINE) == "fuse.sshfs"
    assert file_system_type(DEVICE, b"36 35 0:77 / /data rw - ext4 /dev/sda rw\n" + LINE) == "ext4"
    assert file_system_type(os.makedev(0, 78), LINE) == ""
    assert file_system_type(DEVICE, b"") == ""


def test_another_mount_may_have_any_name() -> None:
    """Anybody may make one with FUSE, and no engine would start."""
    for name in (b"/home/a\xff", b"/home/a\x0cb\x0cc", b"/home/a\x1c\x1d\xe2\x80\xa8b"):
        other = b"35 34 0:76 / " + name + b" rw - fuse other rw\n"
        assert file_system_type(DEVICE, other + LINE) == "fuse.sshfs"


def test_the_kernel_s_own_list_is_understood() -> None:
    assert file_system_type(os.stat("/proc").st_dev, Path("/proc/self/mountinfo").read_bytes()) == "proc"
