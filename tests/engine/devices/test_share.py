"""A shared folder in a whole engine, asked by a driver without a guest."""

import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringblk.engine.statistics.statistics import take_snapshot
from ringblk.shm.state.segment import StateSegment
from tests.rigs.engine_rig import own_lines, run_program
from tests.rigs.share import (
    ACCESS,
    COPY_FILE_RANGE,
    FALLOCATE,
    FSYNC,
    GETATTR,
    GETXATTR,
    LISTXATTR,
    LOOKUP,
    LSEEK,
    MKNOD,
    OPEN,
    PROGRAM,
    REMOVEXATTR,
    RENAME,
    ROOT,
    SETATTR,
    SETXATTR,
    STATFS,
    STATX,
    SYNCFS,
    TMPFILE,
    ShareError,
    ShareFrontend,
    entry_of,
    errno_of,
    share_engine,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files are opened by their handles: root only")

IO_ENGINES = ["auto", "psync"]
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2


class Share:
    """An engine, the folder and a guest's file system."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.engine = share_engine(folder, *options)
        self.guest = ShareFrontend(self.engine)

    def close(self) -> None:
        self.guest.close()
        self.engine.__exit__(None, None, None)


@pytest.fixture
def start(shm_path: Path) -> Iterator[Callable[..., Share]]:
    started: list[Share] = []

    def start_one(*options: str) -> Share:
        started.append(Share(shm_path, *options))
        return started[-1]

    yield start_one
    for share in started:
        share.close()


@pytest.mark.parametrize("io_engine", IO_ENGINES)
def test_what_is_there_is_read(start: Callable[..., Share], io_engine: str) -> None:
    share = start(f"--io-engine={io_engine}")
    (share.folder / "file").write_bytes(bytes(range(256)) * 40)
    (share.folder / "a folder").mkdir()
    (share.folder / "a folder" / "in it").symlink_to("../file")
    guest = share.guest
    file = guest.lookup("file")
    there = (share.folder / "file").stat()
    assert (file.attr.ino, file.attr.size, file.attr.mode) == (there.st_ino, there.st_size, there.st_mode)
    assert guest.read(file.node_id, 300, 7) == (bytes(range(256)) * 2)[7:307]
    assert guest.read(file.node_id, 4096, 10200) == bytes(range(216, 256))
    assert guest.read(file.node_id, 4096, 1 << 40) == b""
    assert sorted(guest.names_in(ROOT)) == ["a folder", "file"]
    link = guest.walk("a folder/in it")
    assert stat.S_ISLNK(link.attr.mode)
    assert guest.readlink(link.node_id) == "../file"
    assert guest.getattr(ROOT).ino == share.folder.stat().st_ino
    blocks, _, _, files = struct.unpack_from("<QQQQ", guest.ask(STATFS, ROOT, room=80))
    here = os.statvfs(share.folder)
    assert (blocks, files) == (here.f_blocks, here.f_files)


@pytest.mark.parametrize("io_engine", IO_ENGINES)
def test_what_is_asked_for_is_done(start: Callable[..., Share], io_engine: str) -> None:
    share = start(f"--io-engine={io_engine}")
    guest, folder = share.guest, share.folder
    made = guest.create("made")
    assert guest.write(made.node_id, b"x" * 70_000, 3) == 70_000
    assert (folder / "made").read_bytes() == bytes(3) + b"x" * 70_000
    assert guest.write(made.node_id, b"end", 0, flags=os.O_APPEND) == 3
    assert (folder / "made").stat().st_size == 70_006
    inner = guest.mkdir("inner", mode=0o751)
    assert stat.S_IMODE((folder / "inner").stat().st_mode) == 0o751
    guest.rename("made", "moved", ROOT, inner.node_id)
    assert os.listdir(folder / "inner") == ["moved"]
    guest.link(made.node_id, "again")
    assert guest.getattr(made.node_id).nlink == 2
    guest.symlink("link", "nowhere/at all")
    assert os.readlink(folder / "link") == "nowhere/at all"
    guest.ask(MKNOD, ROOT, struct.pack("<IIII", stat.S_IFIFO | 0o600, 0, 0, 0), b"fifo\0", room=128)
    assert stat.S_ISFIFO((folder / "fifo").stat().st_mode)
    with pytest.raises(ShareError, match="not empty"):
        guest.rmdir("inner")
    guest.unlink("moved", inner.node_id)
    guest.rmdir("inner")
    for name in ("again", "link", "fifo"):
        guest.unlink(name)
    assert os.listdir(folder) == []


def test_renames_as_they_are_asked_for(start: Callable[..., Share]) -> None:
    share = start()
    guest = share.guest
    for name in ("one", "two"):
        guest.write(guest.create(name).node_id, name.encode())
    with pytest.raises(ShareError, match="exists"):
        guest.rename("one", "two", flags=RENAME_NOREPLACE)
    guest.rename("one", "two", flags=RENAME_EXCHANGE)
    assert (share.folder / "one").read_text() == "two"
    guest.ask(RENAME, ROOT, struct.pack("<Q", ROOT), b"one\0two\0")
    assert os.listdir(share.folder) == ["two"]


def test_what_is_made_is_whose_who_asked(start: Callable[..., Share]) -> None:
    share = start()
    share.folder.chmod(0o777)
    share.guest.uid, share.guest.gid = 1234, 4321
    share.guest.create("file")
    share.guest.mkdir("folder")
    share.guest.symlink("link", "x")
    owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in share.folder.iterdir()}
    assert owners == {(1234, 4321)}


def set_attributes(guest: ShareFrontend, node_id: int, valid: int, **values: int) -> None:
    names = "size owner atime mtime ctime ansec mnsec cnsec mode unused uid gid"
    fields = dict.fromkeys(names.split(), 0)
    fields.update(values)
    guest.ask(SETATTR, node_id, struct.pack("<IIQQQQQQIIIIIIII", valid, 0, 0, *fields.values(), 0), room=104)


def test_attributes_are_set(start: Callable[..., Share]) -> None:
    share = start()
    guest = share.guest
    node_id = guest.create("file").node_id
    guest.write(node_id, b"0123456789")
    set_attributes(guest, node_id, 1 | 2 | 4 | 8, size=4, mode=0o4750, uid=77, gid=78)
    there = (share.folder / "file").stat()
    assert (there.st_size, there.st_uid, there.st_gid) == (4, 77, 78)
    assert stat.S_IMODE(there.st_mode) & 0o777 == 0o750
    set_attributes(guest, node_id, 16 | 32, atime=5, ansec=6, mtime=7, mnsec=8)
    there = (share.folder / "file").stat()
    assert (there.st_atime_ns, there.st_mtime_ns) == (5_000_000_006, 7_000_000_008)
    link = guest.symlink("link", "file")
    set_attributes(guest, link.node_id, 2, uid=99)
    assert (share.folder / "link").lstat().st_uid == 99
    assert (share.folder / "file").stat().st_uid == 77
    granted = [errno_of(ACCESS, guest, node_id, struct.pack("<II", mask, 0)) for mask in (0, 4, 1)]
    assert granted == ["", "", ""]
    guest.uid = 1000
    assert errno_of(ACCESS, guest, node_id, struct.pack("<II", 4, 0)) == "EACCES"
    reply = guest.ask(STATX, node_id, struct.pack("<IIQII", 0, 0, 0, 0, 0xFFF), room=288)
    assert struct.unpack_from("<Q", reply, 32 + 40)[0] == 4  # stat.size


def test_extended_attributes(start: Callable[..., Share]) -> None:
    share = start("--xattr")
    guest = share.guest
    node_id = guest.create("file").node_id

    def set_one(name: bytes, value: bytes, flags: int = 0) -> int:
        argument = struct.pack("<II", len(value), flags)
        return guest.try_to(SETXATTR, node_id, argument, name + b"\0" + value)[0]

    if set_one(b"user.one", b"value"):
        pytest.skip("this file system has no extended attributes")
    assert os.getxattr(share.folder / "file", "user.one") == b"value"
    assert set_one(b"user.one", b"other", os.XATTR_CREATE) == errno.EEXIST
    assert set_one(b"user.two", b"") == 0

    def get_one(room: int) -> tuple[int, bytes]:
        return guest.try_to(GETXATTR, node_id, struct.pack("<II", room, 0), b"user.one\0", room=max(room, 8))

    assert get_one(0) == (0, struct.pack("<II", 5, 0))
    assert get_one(5) == (0, b"value")
    assert get_one(4)[0] == errno.ERANGE
    listed = guest.ask(LISTXATTR, node_id, struct.pack("<II", 100, 0), room=100)
    assert {b"user.one", b"user.two"} <= set(listed.split(b"\0"))
    guest.ask(REMOVEXATTR, node_id, b"user.one\0")
    assert errno_of(REMOVEXATTR, guest, node_id, b"user.one\0") == "ENODATA"


def test_what_else_files_can_do(start: Callable[..., Share]) -> None:
    share = start()
    guest = share.guest
    source, target = guest.create("source"), guest.create("target")
    guest.write(source.node_id, b"data", 1 << 16)
    seek = struct.pack("<QQII", 0, 0, os.SEEK_DATA, 0)
    assert struct.unpack("<Q", guest.ask(LSEEK, source.node_id, seek, room=8))[0] == 1 << 16
    argument = struct.pack("<QQQQQQQ", 0, 1 << 16, target.node_id, 0, 2, 4, 0)
    assert struct.unpack_from("<I", guest.ask(COPY_FILE_RANGE, source.node_id, argument, room=8))[0] == 4
    assert (share.folder / "target").read_bytes() == b"\0\0data"
    guest.ask(FALLOCATE, target.node_id, struct.pack("<QQQII", 0, 0, 8192, 0, 0))
    assert (share.folder / "target").stat().st_size == 8192
    guest.ask(FSYNC, target.node_id, struct.pack("<QII", 0, 1, 0))
    guest.ask(SYNCFS, ROOT, bytes(8))
    nameless = entry_of(
        guest.ask(TMPFILE, ROOT, struct.pack("<IIII", os.O_RDWR, 0o100600, 0, 0), b"\0", room=144)
    )
    guest.write(nameless.node_id, b"nameless")
    guest.link(nameless.node_id, "named")
    assert (share.folder / "named").read_bytes() == b"nameless"


def test_a_folder_that_may_only_be_read(start: Callable[..., Share]) -> None:
    share = start("--readonly")
    (share.folder / "file").write_text("text")
    node_id = share.guest.lookup("file").node_id
    assert share.guest.read(node_id, 10) == b"text"
    for attempt in (
        lambda: share.guest.create("new"),
        lambda: share.guest.write(node_id, b"x"),
        lambda: share.guest.unlink("file"),
        lambda: set_attributes(share.guest, node_id, 8, size=0),
    ):
        with pytest.raises(ShareError, match="Read-only"):
            attempt()


def test_large_folders_are_read_in_pieces(start: Callable[..., Share]) -> None:
    share = start()
    names = {f"{number:04}-{'n' * (number % 200)}" for number in range(500)}
    for name in names:
        (share.folder / name).write_text(name)
    assert set(share.guest.names_in(ROOT)) == names
    assert len(share.guest.names_in(ROOT, room=300)) == 500
    entries = share.guest.entries_in(ROOT, room=60_000)
    assert entries.keys() == names
    assert all(entries[name].attr.size == len(name) for name in names)


def test_the_guest_knows_what_it_was_told_of_until_it_forgets(start: Callable[..., Share]) -> None:
    share = start()
    (share.folder / "file").touch()
    node_ids = {share.guest.lookup("file").node_id for _ in range(3)}
    (node_id,) = node_ids
    assert share.guest.entries_in(ROOT)["file"].node_id == node_id
    share.guest.forget(node_id, 3)
    assert errno_of(GETATTR, share.guest, node_id, bytes(16), 104) == ""
    share.guest.forget(node_id)
    assert errno_of(GETATTR, share.guest, node_id, bytes(16), 104) == "ESTALE"
    assert share.guest.lookup("file").node_id == node_id
    share.guest.begin()
    assert errno_of(GETATTR, share.guest, node_id, bytes(16), 104) == "ESTALE"


def test_guests_that_need_no_open_are_told(start: Callable[..., Share]) -> None:
    share = start()
    assert errno_of(OPEN, share.guest, ROOT, bytes(8), 16) == "ENOSYS"
    share.guest.begin(flags=0)
    assert errno_of(OPEN, share.guest, ROOT, bytes(8), 16) == ""


NAMES = [b"", b".", b"..", b"a/b", b"/", b"../x", b"n" * 256, b"n" * 5000, b"with\0in it"]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:10]))
def test_names_that_are_none(start: Callable[..., Share], name: bytes) -> None:
    share = start()
    assert errno_of(LOOKUP, share.guest, ROOT, name + b"\0", 128) in ("EINVAL", "ENAMETOOLONG")
    assert errno_of(LOOKUP, share.guest, ROOT, name, 128) in ("EINVAL", "ENAMETOOLONG")
    with pytest.raises(ShareError):
        share.guest.mkdir(os.fsdecode(name))
    assert os.listdir(share.folder) == []
    assert share.guest.getattr(ROOT).mode


def test_links_lead_nowhere(start: Callable[..., Share], tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("secret")
    share = start()
    (share.folder / "link").symlink_to(tmp_path / "outside")
    (share.folder / "folder link").symlink_to(tmp_path)
    link, folder_link = share.guest.lookup("link"), share.guest.lookup("folder link")
    with pytest.raises(ShareError):
        share.guest.read(link.node_id, 10)
    with pytest.raises(ShareError):
        share.guest.lookup("outside", folder_link.node_id)
    with pytest.raises(ShareError):
        share.guest.create("link", flags=0)
    assert (tmp_path / "outside").read_text() == "secret"


def test_statistics_have_its_operations(start: Callable[..., Share]) -> None:
    share = start()
    node_id = share.guest.create("file").node_id
    share.guest.write(node_id, bytes(5000))
    for _ in range(3):
        share.guest.getattr(ROOT)
    state = StateSegment.attach(share.engine.segment_name)
    found = {each.operation: each for each in take_snapshot(state).operations}
    state.close()
    assert found["getattr"].request_count == 3
    assert (found["write"].request_count, found["write"].byte_count) == (1, 5000)
    assert found["create"].request_count == found["init"].request_count == 1


def test_the_config_space_has_tag_and_queues(start: Callable[..., Share]) -> None:
    share = start("--num-request-queues=3")
    assert share.guest.connection.get_config(0, 40) == b"test".ljust(36, b"\0") + struct.pack("<I", 3)
    assert share.guest.connection.get_queue_num() == 4


def test_an_engine_that_cannot_share(tmp_path: Path) -> None:
    def said(*options: str) -> str:
        done = run_program(f"--socket-path={tmp_path}/socket", *options, program=PROGRAM)
        assert done.returncode != 0
        return own_lines(done)

    assert "give --tag, and one of --shared-dir and --file-system" in said()
    assert f"--shared-dir {tmp_path}/no: No such file" in said(f"--shared-dir={tmp_path}/no", "--tag=t")
    assert "not 1 to 36 bytes" in said(f"--shared-dir={tmp_path}", f"--tag={'t' * 37}")
    assert "needs --xattr" in said(f"--shared-dir={tmp_path}", "--tag=t", "--posix-acl")
