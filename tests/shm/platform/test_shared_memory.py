"""Shared memory by name and without, in whichever form is built."""

import mmap
import os
import secrets
from collections.abc import Iterator

import pytest

from ringblk.shm.platform.shared_memory import (
    FOLDER,
    create_named,
    give_back,
    make_unnamed,
    open_named,
    rename_named,
    reserve,
    unlink_named,
)


@pytest.fixture
def name() -> Iterator[str]:
    """A name that nobody has, longer than what shm_open(3) takes on macOS."""
    name = f"ringblk-test-{secrets.token_hex(16)}"
    yield name
    for left in (name, name + "-other"):
        if os.path.exists(f"{FOLDER}/{left}"):
            unlink_named(left)


def test_what_one_writes_another_reads(name: str) -> None:
    ours = create_named(name)
    os.ftruncate(ours, mmap.PAGESIZE)
    reserve(ours, 0, mmap.PAGESIZE)
    theirs = open_named(name)
    with mmap.mmap(ours, mmap.PAGESIZE) as written, mmap.mmap(theirs, mmap.PAGESIZE) as read:
        assert read[:] == bytes(mmap.PAGESIZE)
        written[:4] = b"here"
        reserve(ours, 0, mmap.PAGESIZE)  # what stands there stays
        assert read[:4] == b"here"
        give_back(written, 0, mmap.PAGESIZE)
        assert read[:4] == bytes(4)
    for fd in (ours, theirs):
        assert not os.get_inheritable(fd)
        os.close(fd)


def test_a_name_is_made_once_and_goes(name: str) -> None:
    os.close(create_named(name))
    with pytest.raises(FileExistsError):
        create_named(name)
    rename_named(name, name + "-other")
    with pytest.raises(FileNotFoundError):
        open_named(name)
    os.close(open_named(name + "-other"))
    unlink_named(name + "-other")
    rename_named(name, name + "-other")  # it is gone, and stays so
    for call in (open_named, unlink_named):
        with pytest.raises(FileNotFoundError):
            call(name + "-other")


def test_a_name_leads_nowhere_else(name: str) -> None:
    os.symlink("/etc/passwd", f"{FOLDER}/{name}")
    with pytest.raises(OSError):  # noqa: PT011 - a loop, whatever the system calls it
        open_named(name)
    with pytest.raises(OSError):  # noqa: PT011
        create_named("../" + name)


def test_memory_without_a_name_is_in_no_folder() -> None:
    before = set(os.listdir(FOLDER))
    fd = make_unnamed("ringblk-test-unnamed", mmap.PAGESIZE)
    assert os.fstat(fd).st_size == mmap.PAGESIZE
    assert not {name for name in set(os.listdir(FOLDER)) - before if "test-unnamed" in name}
    os.close(fd)
