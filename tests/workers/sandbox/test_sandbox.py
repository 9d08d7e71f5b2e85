"""The sandbox of the backends that come with the engine, tried from a child; and older kernels' Landlock.

What a user's own backend finds, and whole engines: tests/engine/program/test_sandbox.py.
"""

import errno
import fcntl
import mmap
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from ringblk.shm.platform import sandbox_calls
from ringblk.workers.sandbox.sandbox import Sandbox
from ringblk.workers.sandbox.syscall_filter import FILE_CALLS

TIOCSTI = 0x5412


def in_child(sandbox: Sandbox, attempt: Callable[[], object]) -> str:
    """Have a child go into the sandbox and make an attempt; the error's name, or "done"."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            sandbox.privileges.drop()
            sandbox.confinement().confine(sandbox.ruleset_fd)
            attempt()
            answer = "done"
        except OSError as error:
            answer = errno.errorcode[error.errno or 0]
        except BaseException as error:
            answer = repr(error)
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        answer = file.read().decode()
    os.waitpid(pid, 0)
    return answer


@pytest.fixture
def image(tmp_path: Path) -> int:
    """A file, open for reading and writing."""
    path = tmp_path / "image"
    path.write_bytes(bytes(8192))
    return os.open(path, os.O_RDWR)


def attempts(image: int) -> dict[str, Callable[[], object]]:
    lock = struct.pack("hhqqi4x", fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0)
    return {
        "read": lambda: os.preadv(image, [bytearray(512)], 0),
        "write": lambda: os.pwritev(image, [bytes(512)], 0),
        "flush": lambda: os.fdatasync(image),
        "map memory": lambda: mmap.mmap(-1, 4096),
        "duplicate": lambda: os.dup(image),
        "signal itself": lambda: os.kill(os.getpid(), 0),
        "open": lambda: os.open("/etc/passwd", os.O_RDONLY),
        "cut the image": lambda: os.ftruncate(image, 0),
        "unlock the image": lambda: fcntl.fcntl(image, fcntl.F_OFD_SETLK, lock),
        "change O_DIRECT": lambda: fcntl.fcntl(image, fcntl.F_SETFL, 0),
        "type on the terminal": lambda: fcntl.ioctl(0, TIOCSTI, b"x"),
        "map code": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
        "socket": socket.socket,
        "fork": os.fork,
        "exec": lambda: os.execv("/bin/true", ["true"]),
        "signal another": lambda: os.kill(os.getppid(), 0),
        "change its groups": lambda: os.setgroups([0]),
    }


ALLOWED = ["read", "write", "flush", "map memory", "duplicate", "signal itself"]


@pytest.mark.parametrize("name", attempts(-1))
def test_what_a_worker_may_do(name: str, image: int) -> None:
    wanted = "done" if name in ALLOWED else "EPERM"
    assert in_child(Sandbox(confines=True, storage_calls=FILE_CALLS), attempts(image)[name]) == wanted
    os.close(image)


@pytest.mark.parametrize("version", range(1, 8))
def test_each_version_of_landlock(version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if version > sandbox_calls.landlock_version():
        pytest.skip("this kernel is older")
    monkeypatch.setattr(sandbox_calls, "landlock_version", lambda: version)
    allowed, other = tmp_path / "allowed", tmp_path / "other"
    allowed.mkdir()
    (tmp_path / "file").touch()

    def make(folder: Path) -> None:
        (folder / "made").write_text("some text")
        (folder / "made").unlink()

    sandbox = Sandbox(
        confines=True, runs_user_code=True, allowed_paths=[str(allowed), str(tmp_path / "file")]
    )
    assert in_child(sandbox, lambda: make(allowed)) == "done"
    assert in_child(sandbox, lambda: (tmp_path / "file").write_text("some text")) == "done"
    assert in_child(sandbox, lambda: make(tmp_path)) == "EACCES"
    assert in_child(sandbox, other.mkdir) == "EACCES"
    assert in_child(sandbox, lambda: os.listdir("/")) == "EACCES"


def test_a_path_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="/nowhere"):
        Sandbox(confines=True, runs_user_code=True, allowed_paths=["/nowhere"])
