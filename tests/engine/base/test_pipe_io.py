"""Pipes and files that take or give less than was asked for: nothing is lost, nothing ends early."""

import fcntl
import os
import resource
import select
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringblk.engine.base import pipe_io
from ringblk.engine.base.pipe_io import PipeReader, write_fully

COMMAND = [sys.executable, "-m", "ringblk", "image"]
UNBUFFERED = {**os.environ, "PYTHONUNBUFFERED": "1"}
LIMIT_BYTES = 3 << 19


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    """The two ends of a pipe, both non-blocking."""
    reading, writing = os.pipe2(os.O_NONBLOCK)
    yield reading, writing
    os.close(reading)
    os.close(writing)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(os.urandom(2 << 20))
    return path


def test_a_non_blocking_pipe_that_is_full_is_waited_for(
    ends: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = ends
    got = bytearray()
    monkeypatch.setattr(pipe_io, "_wait", lambda fd, event: got.extend(os.read(reading, 50_000)))
    content = os.urandom(1 << 20)
    write_fully(writing, memoryview(content))
    while len(got) < len(content):
        got += os.read(reading, 1 << 20)
    assert got == content


def test_a_non_blocking_pipe_that_is_empty_has_not_ended(
    ends: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = ends
    content = os.urandom(1000)
    left = [content[start : start + 7] for start in range(0, len(content), 7)]
    monkeypatch.setattr(pipe_io, "_wait", lambda fd, event: os.write(writing, left.pop(0)))
    reader = PipeReader(reading)
    assert reader.peek_head(600) == content[:600]
    got = bytearray()
    while len(got) < len(content):
        got += reader.read(100) or b""
    assert got == content


def test_the_wait_is_for_the_pipe(ends: tuple[int, int]) -> None:
    reading, writing = ends
    pipe_io._wait(writing, select.POLLOUT)
    os.write(writing, b"x")
    pipe_io._wait(reading, select.POLLIN)


def limit_file_size() -> None:
    """Make a write that reaches over the limit a short one, and the next one fail, as a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, LIMIT_BYTES))


def test_an_export_to_a_file_that_takes_only_a_part_fails(tmp_path: Path, image: Path) -> None:
    with (tmp_path / "out").open("wb") as target:
        done = subprocess.run(
            [*COMMAND, "export", image, "-"],
            stdout=target,
            stderr=subprocess.PIPE,
            env=UNBUFFERED,
            preexec_fn=limit_file_size,
            check=False,
        )
    assert (tmp_path / "out").stat().st_size == LIMIT_BYTES
    assert done.returncode == 1
    assert done.stderr == b"ringblk image: -: File too large\n"


def test_an_export_into_a_non_blocking_pipe_is_whole(image: Path) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with subprocess.Popen(
        [*COMMAND, "export", "--quiet", image, "-"], stdout=writing, env=UNBUFFERED
    ) as process:
        os.close(writing)
        with open(reading, "rb") as pipe:
            assert pipe.read() == image.read_bytes()
    assert process.returncode == 0


def test_an_import_from_a_pipe_that_begins_with_one_byte_knows_its_format(
    ends: tuple[int, int], tmp_path: Path
) -> None:
    reading, writing = ends
    os.write(writing, b"Q")
    process = subprocess.Popen(
        [*COMMAND, "import", "-", tmp_path / "t.raw"], stdin=reading, stderr=subprocess.PIPE
    )
    while int.from_bytes(fcntl.ioctl(reading, termios.FIONREAD, bytes(4)), "little"):
        assert process.poll() is None  # until it has taken the one byte
    os.write(writing, b"FI\xfb\0\0\0\3" + bytes(1000))
    _, said = process.communicate()
    assert process.returncode == 1
    assert b"a qcow2 image cannot be read from a pipe" in said
