"""Requests that no guest makes: each is answered, or comes back, and nothing else suffers."""

import errno
import os
import random
import stat
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rigs.share import (
    BATCH_FORGET,
    FORGET,
    HEADER_BYTES,
    INTERRUPT,
    LOOKUP,
    READ,
    RENAME2,
    ROOT,
    WRITE,
    ShareFrontend,
    share_engine,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files are opened by their handles: root only")

OPCODES = range(64)
LONGEST_ARGUMENT_BYTES = 130
SILENT = (FORGET, INTERRUPT, BATCH_FORGET)
"""What has no answer where it is right."""

KINDS: dict[str, tuple[int, int, bytes, int | None, int | None]] = {
    "a name with a NUL in it": (LOOKUP, ROOT, b"a\0b\0", None, 256),
    "a name without a NUL": (LOOKUP, ROOT, b"name", None, 256),
    "a rename without a body": (RENAME2, ROOT, b"", None, 256),
    "a rename to no name": (RENAME2, ROOT, bytes(16) + b"name\0", None, 256),
    "more than there is": (LOOKUP, ROOT, b"name\0", 1 << 20, 256),
    "less than a header": (LOOKUP, ROOT, b"name\0", 8, 256),
    "an opcode that is none": (4095, ROOT, b"", None, 256),
    "no room for an answer": (LOOKUP, ROOT, b"name\0", None, None),
}
"""Opcode, inode, body, the length that the header says if another, room. The first three stop virtiofsd."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="ringblk-test-") as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def share(folder: Path) -> Iterator[ShareFrontend]:
    with share_engine(folder, "--xattr") as engine:
        frontend = ShareFrontend(engine)
        yield frontend
        assert "died" not in engine.log()
        frontend.close()


def assert_serves(share: ShareFrontend) -> None:
    """It serves, once what was done to the session is undone."""
    share.begin()
    assert share.getattr(ROOT).mode


@pytest.mark.parametrize("opcode", OPCODES)
def test_every_opcode_at_every_length(share: ShareFrontend, opcode: int) -> None:
    """A bad request, of a shared folder: each is answered with an errno, where there is room for it."""
    chosen = random.Random(opcode)
    for size_bytes in range(LONGEST_ARGUMENT_BYTES):
        argument = chosen.choice([bytes(size_bytes), b"\xff" * size_bytes, chosen.randbytes(size_bytes)])
        room = chosen.choice([None, 0, 8, HEADER_BYTES, HEADER_BYTES + 8, 4096])
        length, reply = share.send([share.header(opcode, ROOT, size_bytes), argument], room)
        assert length <= (room or 0)
        if length:
            said, error, unique = struct.unpack_from("<IiQ", reply)
            assert (said, unique) == (length, share.unique)
            assert error <= 0
            assert -error not in (errno.EIO, errno.EFAULT)
        else:
            assert opcode in SILENT or (room or 0) < HEADER_BYTES
    assert_serves(share)


@pytest.mark.parametrize("opcode", OPCODES)
def test_inodes_that_nobody_knows(share: ShareFrontend, opcode: int) -> None:
    for node_id in (0, 2, 12345, 1 << 63, (1 << 64) - 1):
        for argument in (bytes(16), b"\xff" * 40 + b"name\0", b"a\0b\0"):
            share.send([share.header(opcode, node_id, len(argument)), argument], 4096)
    assert_serves(share)


@pytest.mark.parametrize("kind", KINDS)
def test_the_kinds_that_stop_other_servers(share: ShareFrontend, kind: str) -> None:
    opcode, node_id, body, said_bytes, room = KINDS[kind]
    whole = share.header(opcode, node_id, len(body)) + body
    if said_bytes is not None:
        whole = struct.pack("<I", said_bytes) + whole[4:]
    length, reply = share.send([whole], room)
    if room is None:
        assert length == 0
    else:
        error = -struct.unpack_from("<Ii", reply)[1]
        assert (length, error) == (HEADER_BYTES, errno.ENOSYS if opcode == 4095 else errno.EINVAL)
    assert stat.S_ISDIR(share.getattr(ROOT).mode)


def test_headers_that_are_none(share: ShareFrontend) -> None:
    """A bad request, of a shared folder: EINVAL, or length 0 where no header came; the next is served."""
    for size_bytes in range(40):
        assert share.send([b"\x01" * size_bytes] if size_bytes else [], 64)[0] == 0
    right = share.header(LOOKUP, ROOT, 2) + b"x\0"
    for said in (0, 39, 41, 43, 1 << 31, (1 << 32) - 1):
        length, reply = share.send([struct.pack("<I", said) + right[4:]], 64)
        assert struct.unpack_from("<Ii", reply) == (HEADER_BYTES, -errno.EINVAL)
        assert length == HEADER_BYTES
    assert_serves(share)


def test_requests_cut_anywhere(share: ShareFrontend) -> None:
    """The pieces of a request are wherever the driver cuts it (virtio 1.2, 2.7.4.2)."""
    made = share.create("cut", flags=0)
    argument = struct.pack("<QQIIQII", 0, 0, 10, 0, 0, 0, 0)
    for cut in range(1, 90):
        whole = share.header(WRITE, made.node_id, len(argument) + 10) + argument + b"0123456789"
        length, reply = share.send([whole[:cut], whole[cut:]], 24)
        assert (length, struct.unpack_from("<Ii", reply)) == (24, (24, 0))
    assert share.read(made.node_id, 100) == b"0123456789"


def test_lengths_that_do_not_fit(share: ShareFrontend) -> None:
    node_id = share.create("long", flags=0).node_id
    for size in (0, 5, 7, 1 << 31, (1 << 32) - 1):
        argument = struct.pack("<QQIIQII", 0, 0, size, 0, 0, 0, 0)
        assert share.try_to(WRITE, node_id, argument, b"data..", room=8)[0] == errno.EINVAL
    argument = struct.pack("<QQIIQII", 0, 0, (1 << 32) - 1, 0, 0, 0, 0)
    assert share.try_to(READ, node_id, argument, room=10)[0] == 0
    for offset in ((1 << 64) - 1, 1 << 63):
        argument = struct.pack("<QQIIQII", 0, offset, 10, 0, 0, 0, 0)
        assert share.try_to(READ, node_id, argument, room=10)[0] == errno.EINVAL
    assert share.send([share.header(BATCH_FORGET, 0, 8), struct.pack("<II", 1 << 31, 0)], None)[0] == 0
    assert_serves(share)


def test_a_rename_without_a_body(share: ShareFrontend) -> None:
    for body in (b"", bytes(16), bytes(16) + b"one", bytes(16) + b"one\0", bytes(16) + b"one\0two"):
        assert share.try_to(RENAME2, ROOT, body)[0] == errno.EINVAL
    assert_serves(share)
