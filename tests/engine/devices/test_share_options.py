"""virtiofsd's options: each does what it does there, or is refused in a line that says what to do instead."""

import errno
import mmap
import os
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.options.id_ranges import read_id_ranges
from ringblk.workers.fs.id_map import IdMap
from tests.rigs.engine_rig import own_lines, run_program
from tests.rigs.share import (
    ACCESS,
    CREATE,
    PROGRAM,
    READ,
    ROOT,
    SETATTR,
    STATX,
    WRITE,
    ShareError,
    ShareFrontend,
    errno_of,
    share_engine,
)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="files are opened by their handles: root only")
WRITEBACK_CACHE, HANDLE_KILLPRIV_V2 = 1 << 16, 1 << 28


@pytest.fixture
def start(tmp_path: Path, shm_path: Path) -> Iterator[Callable[..., ShareFrontend]]:
    """A guest's file system of a folder in memory."""
    guests: list[ShareFrontend] = []
    engines = []

    def start_one(*options: str, folder: Path = shm_path) -> ShareFrontend:
        engines.append(share_engine(folder, *options))
        guests.append(ShareFrontend(engines[-1]))
        return guests[-1]

    yield start_one
    for guest, engine in zip(guests, engines, strict=True):
        guest.close()
        engine.__exit__(None, None, None)


def give_away(guest: ShareFrontend, node_id: int, uid: int, gid: int) -> None:
    fields = struct.pack("<IIQQQQQQIIIIIIII", 2 | 4, *[0] * 12, uid, gid, 0)
    guest.ask(SETATTR, node_id, fields, room=104)


@needs_root
def test_users_and_groups_have_other_numbers(start: Callable[..., ShareFrontend], shm_path: Path) -> None:
    guest = start(
        "--translate-uid=map:0:1000:10",
        "--translate-uid=forbid-guest:500:100",
        "--translate-gid=squash-guest:0:77:4294967295",
        "--translate-gid=squash-host:77:5:1",
    )
    shm_path.chmod(0o777)
    guest.uid, guest.gid = 3, 44
    made = [guest.create("file"), guest.mkdir("folder"), guest.symlink("link", "x")]
    assert {(entry.attr.uid, entry.attr.gid) for entry in made} == {(3, 5)}
    there = [(path.lstat().st_uid, path.lstat().st_gid) for path in shm_path.iterdir()]
    assert there == [(1003, 77)] * 3
    file = made[0].node_id
    assert errno_of(ACCESS, guest, file, struct.pack("<II", 6, 0)) == ""
    give_away(guest, file, 4, 8)
    assert ((shm_path / "file").stat().st_uid, (shm_path / "file").stat().st_gid) == (1004, 77)
    assert (guest.getattr(file).uid, guest.getattr(file).gid) == (4, 5)
    reply = guest.ask(STATX, file, struct.pack("<IIQII", 0, 0, 0, 0, 0xFFF), room=288)
    assert struct.unpack_from("<II", reply, 32 + 20) == (4, 5)
    guest.uid = 555
    for attempt in (
        lambda: guest.create("no"),
        lambda: guest.mkdir("no"),
        lambda: guest.symlink("no", "x"),
        lambda: give_away(guest, file, 500, 8),
    ):
        with pytest.raises(ShareError) as refused:
            attempt()
        assert refused.value.errno == errno.EPERM
    assert not (shm_path / "no").exists()


RANGES = [
    ("map:0:1000:10", [(0, 1000), (9, 1009), (10, 10), (1000, 1000)], [(1000, 0), (1009, 9), (0, 0)]),
    ("guest:5:6:1", [(5, 6), (6, 6)], [(6, 6), (5, 5)]),
    ("host:5:6:1", [(5, 5)], [(5, 6)]),
    ("squash-guest:0:7:4294967295", [(0, 7), (4294967294, 7), (4294967295, 4294967295)], [(7, 7)]),
    ("squash-host:0:7:10", [(0, 0)], [(9, 7), (10, 10)]),
    ("forbid-guest:0:10", [(9, None), (10, 10)], [(9, 9)]),
]


@pytest.mark.parametrize(("text", "to_host", "to_guest"), RANGES, ids=[text for text, _, _ in RANGES])
def test_ranges(text: str, to_host: list[tuple[int, int]], to_guest: list[tuple[int, int]]) -> None:
    ranges = read_id_ranges("--translate-uid", [text])
    for found, expected in ((ranges.to_host, to_host), (ranges.to_guest, to_guest)):
        assert [(number, IdMap(found).translated(number)) for number, _ in expected] == expected


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["map:0:0"], "not of the form"),
        (["squash:0:0:1"], "not of the form"),
        (["forbid-guest:0:0:1"], "not of the form"),
        (["map:-1:0:1"], "not of the form"),
        (["map:0:0:0"], "the count is 0"),
        (["map:0:4294967295:2"], "beyond the last number"),
        (["guest:1:0:4294967296"], "beyond the last number"),
        (["squash-guest:0:4294967296:1"], "beyond the last number"),
        (["guest:5:0:10", "forbid-guest:14:1"], "a range before has some"),
        (["map:0:50:10", "host:59:0:1"], "a range before has some"),
        ([f"guest:{number}:0:1" for number in range(65)], "more than 64"),
    ],
)
def test_ranges_that_are_none(texts: list[str], said: str) -> None:
    with pytest.raises(ProgramError, match=said):
        read_id_ranges("--translate-uid", texts)


@needs_root
@pytest.mark.parametrize(
    "option", [(), ("--killpriv-v2",), ("--writeback",), ("--writeback", "--killpriv-v2")]
)
def test_what_is_agreed_to(start: Callable[..., ShareFrontend], option: tuple[str, ...]) -> None:
    flags = start(*option).begin()[1]
    assert bool(flags & HANDLE_KILLPRIV_V2) == ("--killpriv-v2" in option)
    assert bool(flags & WRITEBACK_CACHE) == ("--writeback" in option)


@needs_root
def test_set_user_id_is_taken_as_the_guest_says(start: Callable[..., ShareFrontend], shm_path: Path) -> None:
    """FUSE_WRITE_KILL_SUIDGID, FATTR_KILL_SUIDGID and FUSE_OPEN_KILL_SUIDGID; none without."""
    guest = start("--killpriv-v2")
    path = shm_path / "file"
    path.write_text("text")
    node_id = guest.lookup("file").node_id

    def mode_after(change: Callable[[], object]) -> int:
        path.chmod(0o6755)
        change()
        return stat.S_IMODE(path.stat().st_mode)

    def write(flags: int) -> None:
        argument = struct.pack("<QQIIQII", 0, 0, 1, flags, 0, 0, 0)
        guest.ask(WRITE, node_id, argument, b"x", room=8)

    def cut(valid: int) -> None:
        guest.ask(SETATTR, node_id, struct.pack("<IIQQ64x", valid, 0, 0, 2), room=104)

    def create(flags: int) -> None:
        argument = struct.pack("<IIII", os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o100644, 0, flags)
        guest.ask(CREATE, ROOT, argument, b"file\0", room=144)

    assert mode_after(lambda: write(0)) == 0o6755
    assert mode_after(lambda: write(4)) == 0o755
    assert mode_after(lambda: cut(8)) == 0o6755
    assert mode_after(lambda: cut(8 | 1 << 11)) == 0o755
    assert mode_after(lambda: create(0)) == 0o6755
    assert mode_after(lambda: create(1)) == 0o755


@needs_root
@pytest.mark.parametrize("is_allowed", [False, True])
def test_direct_io_is_the_hosts_where_that_is_allowed(
    start: Callable[..., ShareFrontend], tmp_path: Path, is_allowed: bool
) -> None:
    """Shown by what the host refuses: an offset that is no block's."""
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "file"
    path.write_bytes(bytes(8192))
    try:
        fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    except OSError:
        pytest.skip("this file system has no direct I/O")
    with os.fdopen(fd, "rb+", buffering=0) as file:
        try:
            file.seek(1)
            file.readinto(mmap.mmap(-1, 4096))
        except OSError:
            pass
        else:
            pytest.skip("this file system takes any offset")
    try:
        guest = start(*["--allow-direct-io"] * is_allowed, folder=folder)
    except AssertionError:
        pytest.skip("this file system has no file handles")
    node_id = guest.lookup("file").node_id

    def ask(opcode: int, offset: int, flags: int) -> str:
        argument = struct.pack("<QQIIQII", 0, offset, 512, 0, 0, flags, 0)
        return errno.errorcode.get(
            guest.try_to(opcode, node_id, argument, bytes(512) if opcode == WRITE else b"", room=512)[0], ""
        )

    assert ask(READ, 1, 0) == ask(WRITE, 1, 0) == ""
    expected = "EINVAL" if is_allowed else ""
    assert ask(READ, 1, os.O_DIRECT) == ask(WRITE, 1, os.O_DIRECT) == expected
    assert ask(READ, 1, 0) == ask(WRITE, 1, 0) == ""


REFUSED = [
    ("--announce-submounts", "share it as another folder"),
    ("--inode-file-handles=never", "an inode is a file handle here"),
    ("--inode-file-handles=some", "mandatory or prefer"),
    ("--thread-pool-size=0", "use --io-engine=sync"),
    ("--xattrmap=:map::user.:", "use --xattr"),
    ("--uid-map=:0:1000:1:", "use --translate-uid"),
    ("--modcaps=+sys_admin", "no more"),
    ("--translate-uid=map:0:1", "not of the form"),
    ("--cache=none", "none of auto, always, never, metadata"),
    ("--blk-file=disk.img", "unrecognized arguments"),
]


@pytest.mark.parametrize(("option", "said"), REFUSED)
def test_what_is_refused_says_what_to_do(tmp_path: Path, option: str, said: str) -> None:
    base = (f"--socket-path={tmp_path}/socket", f"--shared-dir={tmp_path}", "--tag=t")
    done = run_program(*base, option, program=PROGRAM)
    assert done.returncode == 2
    assert own_lines(done).count("\n") == 1
    assert option.partition("=")[0].removesuffix("-size") in own_lines(done) or said in own_lines(done)
    assert said in own_lines(done)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--writeback", "--cache=never"), "--writeback: not with --guest-cache never"),
        (("--writeback", "--cache=metadata"), "--writeback: not with --guest-cache metadata"),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    base = (f"--socket-path={tmp_path}/socket", f"--shared-dir={tmp_path}", "--tag=t")
    assert said in own_lines(run_program(*base, *options, program=PROGRAM))


@needs_root
def test_names_of_virtiofsd(start: Callable[..., ShareFrontend], shm_path: Path) -> None:
    guest = start("--inode-file-handles=mandatory", "--thread-pool-size=2", "--cache=always", "--readonly")
    (shm_path / "file").write_text("text")
    assert guest.read(guest.lookup("file").node_id, 10) == b"text"
