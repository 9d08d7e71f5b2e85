"""The DAX window of a shared folder, by a scripted dialogue on the channel that the front end has given.

In both forms of it: SHMEM_MAP and SHMEM_UNMAP, and FS_MAP and FS_UNMAP, which were there before.

Fault model: the front end answers late, or refuses; the dispatcher is killed while an answer is on its way.
"""

import errno
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ringblk.engine.vhost_user.codes import FrontendRequest, ProtocolFeature
from ringblk.shm.platform.process_table import cpu_s
from tests.rigs.engine_rig import DEADLINE_S, RawFrontend, eventually
from tests.rigs.process_tree import process_state
from tests.rigs.share import (
    HEADER_BYTES,
    REMOVEMAPPING,
    ROOT,
    SETUPMAPPING,
    ShareFrontend,
    share_engine,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files are opened by their handles: root only")

CHUNK = 1 << 21
WINDOW = 1 << 24
MAP, UNMAP = 9, 10
LEGACY_CODES = {MAP: 6, UNMAP: 7}
LEGACY_FLAGS = {3: 1, 0: 0}
"""Readable and writable, in the older form."""
NEED_REPLY, WRITABLE = 8, 1
FUSE_ATTR_DAX = 2
TAKEN_BY_QEMU_ALONE = ProtocolFeature.RESET_DEVICE | ProtocolFeature.STATUS
"""By that front end, which takes whatever is on offer, and by none of those that know FS_MAP."""


class Asked(NamedTuple):
    """A message to the front end."""

    request: int
    fd_offset: int
    window_offset: int
    length: int
    flags: int
    inode: int
    """Of the file that came along; 0: none did."""


class WindowFrontend:
    """A front end that answers on its channel when it is told to."""

    def __init__(self, folder: Path, *options: str, is_legacy: bool = False) -> None:
        self.folder = folder
        self.is_legacy = is_legacy
        self.engine = share_engine(folder, f"--dax-window={WINDOW}", *options)
        declined = TAKEN_BY_QEMU_ALONE | ProtocolFeature.SHMEM if is_legacy else ProtocolFeature(0)
        self.share = ShareFrontend(self.engine, begins=False, declined=declined)
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.channel.settimeout(DEADLINE_S)
        self.share.connection.command(FrontendRequest.SET_BACKEND_REQ_FD, b"", (theirs.fileno(),))
        theirs.close()
        self.share.begin()

    def hear(self) -> Asked:
        """What the front end is asked next, in whatever form."""
        data, fds, _, _ = socket.recv_fds(self.channel, 268 if self.is_legacy else 52, 4)
        request, flags, size = struct.unpack_from("<III", data)
        assert (flags & 3, flags & NEED_REPLY, size) == (1, NEED_REPLY, len(data) - 12)
        inode = os.fstat(fds[0]).st_ino if fds else 0
        for fd in fds:
            os.close(fd)
        if not self.is_legacy:
            assert data[12] == 0  # the device's only region
            fd_offset, window_offset, length, flags = struct.unpack("<QQQQ", data[20:])
            return Asked(request, fd_offset, window_offset, length, flags, inode)
        arrays = struct.unpack("<32Q", data[12:])
        assert not any(arrays[place] for place in range(32) if place % 8)
        (asked,) = (request_now for request_now, code in LEGACY_CODES.items() if code == request)
        return Asked(asked, arrays[0], arrays[8], arrays[16], LEGACY_FLAGS[arrays[24]], inode)

    def answer(self, request: int, value: int = 0) -> None:
        if self.is_legacy:
            request = LEGACY_CODES[request]
        self.channel.sendall(struct.pack("<IIIQ", request, 1 | 4, 8, value))

    def begin_setup(self, node_id: int, file_offset: int, window_offset: int, head: int = 0) -> int:
        argument = struct.pack("<QQQQQ", (1 << 64) - 1, file_offset, CHUNK, WRITABLE, window_offset)
        header = self.share.header(SETUPMAPPING, node_id, len(argument))
        return self.share.offer([header, argument], HEADER_BYTES, head=head)

    def outcome(self, reply_gpa: int) -> int:
        """Wait for a request to come back; its errno."""
        queue = self.share.frontend.queues[1]
        queue.wait_used(1)
        error: int = struct.unpack("<IiQ", queue.driver.read(reply_gpa, HEADER_BYTES))[1]
        return -error

    def set_up(self, node_id: int, file_offset: int, window_offset: int) -> int:
        reply = self.begin_setup(node_id, file_offset, window_offset)
        assert self.hear().request == MAP
        self.answer(MAP)
        return self.outcome(reply)

    def close(self) -> None:
        self.share.close()
        self.channel.close()
        self.engine.__exit__(None, None, None)


@pytest.fixture(params=[False, True], ids=["SHMEM_MAP", "FS_MAP"])
def start(shm_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., WindowFrontend]]:
    started: list[WindowFrontend] = []

    def start_one(*options: str) -> WindowFrontend:
        (shm_path / "file").write_bytes(bytes(4 * CHUNK))
        started.append(WindowFrontend(shm_path, *options, is_legacy=request.param))
        return started[-1]

    yield start_one
    for frontend in started:
        frontend.close()


def test_files_are_mapped_and_unmapped(start: Callable[..., WindowFrontend]) -> None:
    frontend = start("--dax=always")
    file = frontend.share.lookup("file")
    reply = frontend.begin_setup(file.node_id, CHUNK, 2 * CHUNK)
    assert frontend.hear() == Asked(MAP, CHUNK, 2 * CHUNK, CHUNK, WRITABLE, file.attr.ino)
    frontend.answer(MAP)
    assert frontend.outcome(reply) == 0
    assert frontend.share.try_to(REMOVEMAPPING, 0, struct.pack("<I", 0))[0] == 0
    header = frontend.share.header(REMOVEMAPPING, 0, 20)
    frontend.share.frontend.queues[1].driver.forget_places()
    reply = frontend.share.offer([header, struct.pack("<IQQ", 1, 2 * CHUNK, CHUNK)], HEADER_BYTES)
    assert frontend.hear()[:4] == (UNMAP, 0, 2 * CHUNK, CHUNK)
    frontend.answer(UNMAP)
    assert frontend.outcome(reply) == 0


def test_what_is_mapped_is_not_asked_for_again(start: Callable[..., WindowFrontend]) -> None:
    frontend = start("--dax=always")
    file = frontend.share.lookup("file")
    assert frontend.set_up(file.node_id, 0, 0) == 0
    assert frontend.outcome(frontend.begin_setup(file.node_id, 0, 0)) == 0
    reply = frontend.begin_setup(file.node_id, CHUNK, 0)
    assert frontend.hear().request == UNMAP
    assert frontend.hear()[:3] == (MAP, CHUNK, 0)
    frontend.answer(UNMAP, 1)  # of what is gone: no harm
    frontend.answer(MAP)
    assert frontend.outcome(reply) == 0


def test_a_refusal_is_the_requests(start: Callable[..., WindowFrontend]) -> None:
    frontend = start("--dax=always")
    file = frontend.share.lookup("file")
    reply = frontend.begin_setup(file.node_id, 0, 0)
    frontend.hear()
    frontend.answer(MAP, 1)
    assert os.strerror(frontend.outcome(reply)) == "Input/output error"
    assert frontend.set_up(file.node_id, 0, 0) == 0
    for offset in (CHUNK // 2, WINDOW, 1 << 63):
        assert (
            os.strerror(frontend.outcome(frontend.begin_setup(file.node_id, 0, offset))) == "Invalid argument"
        )


def test_who_waits_for_an_answer_holds_up_nobody(start: Callable[..., WindowFrontend]) -> None:
    frontend = start("--dax=always")
    file = frontend.share.lookup("file")
    queue = frontend.share.frontend.queues[1]
    reply = frontend.begin_setup(file.node_id, 0, 0, head=40)
    frontend.hear()
    queue.driver.next_place += 1 << 16
    argument = frontend.share.header(3, ROOT, 16)
    frontend.share.offer([argument, bytes(16)], 120)
    queue.wait_used(1)  # the other one comes back first
    frontend.answer(MAP)
    assert frontend.outcome(reply) == 0
    reply = frontend.begin_setup(file.node_id, CHUNK, CHUNK)
    frontend.hear()
    assert frontend.share.connection.get_vring_base(1) >= 0  # whoever stops the ring does not wait
    assert struct.unpack("<Ii", queue.driver.read(reply, 8))[1] == -5


def test_a_dispatcher_dies_while_it_waits(start: Callable[..., WindowFrontend]) -> None:
    frontend = start("--dax=always")
    file = frontend.share.lookup("file")
    reply = frontend.begin_setup(file.node_id, 0, 0)
    frontend.hear()
    (dispatcher,) = frontend.engine.children()
    os.kill(dispatcher, signal.SIGKILL)
    eventually(lambda: frontend.engine.children() - {dispatcher}, "another dispatcher")
    frontend.answer(MAP)  # to the one that has died
    assert frontend.hear().request == UNMAP
    assert frontend.hear().request == MAP
    frontend.answer(UNMAP)
    frontend.answer(MAP)
    assert frontend.outcome(reply) == 0


NO_WINDOW = [
    ProtocolFeature.SHMEM,
    ProtocolFeature.SHMEM | ProtocolFeature.STATUS,
    ProtocolFeature.SHMEM | TAKEN_BY_QEMU_ALONE | ProtocolFeature.BACKEND_SEND_FD,
    ProtocolFeature.SHMEM | TAKEN_BY_QEMU_ALONE | ProtocolFeature.REPLY_ACK,
    ProtocolFeature.BACKEND_SEND_FD,
    ProtocolFeature.REPLY_ACK,
]


@pytest.mark.parametrize("declined", NO_WINDOW)
def test_a_front_end_that_does_not_map_is_not_asked(shm_path: Path, declined: ProtocolFeature) -> None:
    """One that takes no descriptors, does not answer, or knows neither form, as far as its features tell."""
    (shm_path / "file").write_bytes(bytes(CHUNK))
    with share_engine(shm_path, "--dax=always") as engine:
        share = ShareFrontend(engine, begins=False, declined=declined)
        channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        channel.setblocking(False)
        with channel, theirs:
            share.connection.command(FrontendRequest.SET_BACKEND_REQ_FD, b"", (theirs.fileno(),))
            share.begin()
            argument = struct.pack("<QQQQQ", (1 << 64) - 1, 0, CHUNK, WRITABLE, 0)
            node_id = share.lookup("file").node_id
            assert os.strerror(share.try_to(SETUPMAPPING, node_id, argument)[0]) == "Function not implemented"
            with pytest.raises(BlockingIOError):
                channel.recv(1)
        share.close()


def test_a_front_end_that_hangs_up_on_the_channel_has_no_window(
    start: Callable[..., WindowFrontend],
) -> None:
    """What waits for an answer fails, and so does all that comes; nobody looks at the channel any more."""
    frontend = start("--dax=always", "--io-engine=sync")
    file = frontend.share.lookup("file")
    reply = frontend.begin_setup(file.node_id, 0, 0)
    assert frontend.hear().request == MAP
    frontend.channel.close()
    assert frontend.outcome(reply) == errno.EIO
    reply = frontend.begin_setup(file.node_id, 0, 0)
    assert frontend.outcome(reply) == errno.ENOSYS
    (pid,) = frontend.engine.children()
    eventually(lambda: rests(pid), "a dispatcher that sleeps")


def rests(pid: int) -> bool:
    """Whether a process does nothing for a moment."""
    before = cpu_s(pid)
    time.sleep(0.1)
    return process_state(pid) == "S" and cpu_s(pid) == before


def test_which_files_may_be_mapped(start: Callable[..., WindowFrontend]) -> None:
    frontend = start("--dax=inode")
    (frontend.folder / "odd").write_bytes(bytes(CHUNK + 1))

    def flags(name: str) -> int:
        reply = frontend.share.ask(1, ROOT, name.encode() + b"\0", room=128)
        found: int = struct.unpack_from("<I", reply, 40 + 84)[0]
        return found

    assert (flags("file"), flags("odd")) == (FUSE_ATTR_DAX, 0)
    assert frontend.share.begin()[2] == 2  # HAS_INODE_DAX


def test_a_front_end_learns_of_the_window(start: Callable[..., WindowFrontend]) -> None:
    frontend = start("--dax=inode")
    connection = frontend.share.connection
    assert connection._query_u64(FrontendRequest.GET_PROTOCOL_FEATURES) & ProtocolFeature.SHMEM
    with share_engine(frontend.folder) as without:
        other = RawFrontend(without)
        assert not other.connection._query_u64(FrontendRequest.GET_PROTOCOL_FEATURES) & ProtocolFeature.SHMEM
        other.close()
