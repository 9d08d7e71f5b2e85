"""A file system of a user's own in a whole engine, asked by a driver without a guest.

Fault model: the class raises, returns what it should not, or cannot work at all. Its workers' deaths are in
test_python_share_kills.py.
"""

import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.python_folder import load_file_system
from tests.rigs.engine_rig import own_lines, run_program
from tests.rigs.python_share import Served, kept
from tests.rigs.share import (
    COPY_FILE_RANGE,
    CREATE,
    FALLOCATE,
    FLUSH,
    FSYNC,
    GETXATTR,
    LISTXATTR,
    LSEEK,
    MKNOD,
    OPEN,
    PROGRAM,
    READ,
    READDIR,
    RELEASE,
    REMOVEXATTR,
    ROOT,
    SETATTR,
    SETXATTR,
    STATFS,
    SYNCFS,
    ShareError,
    errno_of,
)

WORDS = ("--file-system=word_folder:WordFolder", "--file-system-arg=words=apple,pear")


@pytest.mark.parametrize("io_engine", ["auto", "sync"])
def test_a_dictionary_is_served(start: Callable[..., Served], io_engine: str) -> None:
    guest = start(*WORDS, f"--io-engine={io_engine}").guest
    assert sorted(guest.names_in(ROOT)) == ["apple", "pear"]
    entries = guest.entries_in(ROOT)
    assert {name: entry.attr.size for name, entry in entries.items()} == {"apple": 20, "pear": 19}
    pear = guest.lookup("pear")
    assert pear == entries["pear"]
    assert guest.read(pear.node_id, 100) == b"pear has 4 letters\n"
    assert guest.read(pear.node_id, 3, 5) == b"has"
    with pytest.raises(ShareError, match="No such file"):
        guest.lookup("plum")
    for attempt in (lambda: guest.mkdir("new"), lambda: guest.write(pear.node_id, b"x")):
        with pytest.raises(ShareError) as refused:
            attempt()
        assert refused.value.errno == errno.ENOSYS
    assert errno_of(OPEN, guest, pear.node_id, bytes(8), 16) == ""
    assert errno_of(FLUSH, guest, pear.node_id, bytes(24)) == "ENOSYS"
    assert errno_of(RELEASE, guest, pear.node_id, bytes(24)) == ""


def test_all_that_can_be_asked_for(start: Callable[..., Served], tmp_path: Path) -> None:
    guest = start(*kept(tmp_path)).guest
    guest.uid, guest.gid = 12, 34
    made = guest.create("made", mode=0o100640)
    assert (made.attr.mode, made.attr.uid, made.attr.gid) == (stat.S_IFREG | 0o640, 12, 34)
    assert guest.write(made.node_id, b"x" * 70_000, 3) == 70_000
    assert guest.read(made.node_id, 80_000) == bytes(3) + b"x" * 70_000
    changes = struct.pack(
        "<IIQQQQQQIIIIIIIII", 1 | 8 | 32, 0, 0, 5, 0, 0, 7, 0, 0, 8, 0, 0o4755, 0, 0, 0, 0, 0
    )
    guest.ask(SETATTR, made.node_id, changes[:88], room=104)
    assert (guest.getattr(made.node_id).size, guest.getattr(made.node_id).mode) == (5, stat.S_IFREG | 0o4755)
    inner = guest.mkdir("inner")
    guest.rename("made", "moved", ROOT, inner.node_id)
    assert guest.link(made.node_id, "again").attr.nlink == 2
    assert guest.readlink(guest.symlink("link", "nowhere/at all").node_id) == "nowhere/at all"
    device = guest.ask(
        MKNOD, ROOT, struct.pack("<IIII", stat.S_IFCHR | 0o600, 0x103, 0, 0), b"null\0", room=128
    )
    assert struct.unpack_from("<I", device, 40 + 76)[0] == 0x103
    with pytest.raises(ShareError, match="not empty"):
        guest.rmdir("inner")
    with pytest.raises(ShareError, match="exists"):
        guest.create("again")
    argument = struct.pack("<QQQQQQQ", 0, 3, guest.create("copy").node_id, 0, 0, 2, 0)
    assert struct.unpack_from("<I", guest.ask(COPY_FILE_RANGE, made.node_id, argument, room=8))[0] == 2
    assert guest.read(guest.lookup("copy").node_id, 10) == b"xx"
    guest.ask(FALLOCATE, made.node_id, struct.pack("<QQQII", 0, 0, 50, 0, 0))
    seek = struct.pack("<QQII", 0, 0, os.SEEK_HOLE, 0)
    assert struct.unpack("<Q", guest.ask(LSEEK, made.node_id, seek, room=8))[0] == 50
    guest.ask(FSYNC, made.node_id, struct.pack("<QII", 0, 1, 0))
    assert errno_of(SYNCFS, guest, ROOT, bytes(8)) == "ENOSYS"
    assert struct.unpack_from("<QQ", guest.ask(STATFS, ROOT, room=80)) == (1000, 900)
    guest.unlink("moved", inner.node_id)
    guest.rmdir("inner")
    assert sorted(guest.names_in(ROOT)) == ["again", "copy", "link", "null"]


def test_a_file_that_is_there_is_opened(start: Callable[..., Served], tmp_path: Path) -> None:
    guest = start(*kept(tmp_path)).guest
    node_id = guest.create("file").node_id
    guest.write(node_id, b"text")
    argument = struct.pack("<IIII", os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o100644, 0, 0)
    guest.ask(CREATE, ROOT, argument, b"file\0", room=144)
    assert guest.getattr(node_id).size == 0


def test_extended_attributes(start: Callable[..., Served], tmp_path: Path) -> None:
    guest = start(*kept(tmp_path)).guest
    guest.ask(SETXATTR, ROOT, struct.pack("<II", 5, 0), b"user.one\0value")

    def get_one(room: int) -> tuple[int, bytes]:
        return guest.try_to(GETXATTR, ROOT, struct.pack("<II", room, 0), b"user.one\0", room=max(room, 8))

    assert get_one(0) == (0, struct.pack("<II", 5, 0))
    assert get_one(5) == (0, b"value")
    assert get_one(4)[0] == errno.ERANGE
    assert guest.ask(LISTXATTR, ROOT, struct.pack("<II", 100, 0), room=100) == b"user.one\0"
    guest.ask(REMOVEXATTR, ROOT, b"user.one\0")
    assert errno_of(REMOVEXATTR, guest, ROOT, b"user.one\0") == "ENODATA"


def test_large_folders_are_read_in_pieces(start: Callable[..., Served]) -> None:
    """Offsets are of names, so what comes and goes meanwhile costs no other name."""
    names = {f"{number:03}{'n' * (number % 100)}" for number in range(300)}
    guest = start(WORDS[0], f"--file-system-arg=words={','.join(names)}").guest
    assert set(guest.names_in(ROOT, room=500)) == names
    assert guest.entries_in(ROOT, room=60_000).keys() == names


def test_a_folder_is_emptied_while_it_is_read(start: Callable[..., Served], tmp_path: Path) -> None:
    guest = start(*kept(tmp_path)).guest
    for number in range(30):
        guest.create(f"file {number}")
    seen: list[str] = []
    offset = 0
    while reply := guest.ask(READDIR, ROOT, struct.pack("<QQIIQII", 0, offset, 100, 0, 0, 0, 0), room=100):
        place = 0
        while place < len(reply):
            _, offset, length, _ = struct.unpack_from("<QQII", reply, place)
            seen.append(reply[place + 24 : place + 24 + length].decode())
            place += -(-(24 + length) // 8) * 8
        for name in set(seen) - {".", ".."} & set(guest.names_in(ROOT)):
            if name.startswith("file") and name in guest.names_in(ROOT):
                guest.unlink(name)
    assert guest.names_in(ROOT) == []
    assert len(seen) == len(set(seen)) == 32


FAULTY = """
import errno, os, stat, time
from ringblk import Attributes
class Faulty:
    what = ""
    def lookup(self, parent, name):
        self.what = name   # what to do next
        return Attributes(2, stat.S_IFREG | 0o644, size=4)
    def getattr(self, inode):
        return Attributes(inode, (stat.S_IFDIR if inode == 1 else stat.S_IFREG) | 0o755)
    def read(self, inode, offset, size):
        return eval(self.what)
    def readdir(self, inode):
        return eval(self.what)
"""

RESULTS = [
    ("b'text'", "", ""),
    ("bytearray(b'text')", "", ""),
    ("'text'", "EIO", "returned an object of type str; it must return bytes"),
    ("None", "EIO", ""),  # which is logged as the one before
    ("5", "EIO", ""),
    ("b'x' * 200", "EIO", "returned 200 bytes; 100 were asked for"),
    ("1 % 0", "EIO", "ZeroDivisionError"),
    ("exit(3)", "EIO", "SystemExit"),
    ("self.nothing", "EIO", "AttributeError"),
    ("(x for x in ()).throw(OSError(errno.EDQUOT, 'full'))", "EDQUOT", ""),
    ("(x for x in ()).throw(FileNotFoundError('it'))", "ENOENT", ""),
    ("(x for x in ()).throw(OSError('nothing'))", "EIO", "OSError"),
]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The class that does as the name says that was looked up last; in one process."""
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "faulty.py").write_text(FAULTY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        served = Served("--file-system=faulty:Faulty", "--io-engine=sync")
    yield served
    served.close()


@pytest.mark.parametrize(("what", "error", "said"), RESULTS, ids=lambda text: text[:20])
def test_what_a_method_does_is_the_requests_own(faulty: Served, what: str, error: str, said: str) -> None:
    guest, engine = faulty.guest, faulty.engine
    processes, log = engine.children(), engine.log()
    node_id = guest.lookup(what).node_id
    argument = struct.pack("<QQIIQII", 0, 0, 100, 0, 0, 0, 0)
    for _ in range(2):
        assert errno_of(READ, guest, node_id, argument, 100) == error
    assert guest.getattr(ROOT).mode == stat.S_IFDIR | 0o755
    assert processes == engine.children()
    new = engine.log().removeprefix(log)
    assert said in new
    assert new.count("faulty.Faulty.read") == bool(said)


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("['a', 'b', 'a']", ""),
        ("'names'", "EIO"),
        ("5", "EIO"),
        ("['a\\x2fb']", "EIO"),
        ("['..']", "EIO"),
        ("[b'a']", "EIO"),
    ],
)
def test_names_are_looked_at(faulty: Served, what: str, error: str) -> None:
    guest = faulty.guest
    guest.lookup(what)
    assert errno_of(READDIR, guest, ROOT, struct.pack("<QQIIQII", 0, 0, 400, 0, 0, 0, 0), 400) == error
    if not error:
        assert sorted(guest.names_in(ROOT)) == ["a", "b"]


REFUSED = [
    ("lookup = None", "has no method lookup"),
    ("async def read(self, inode, offset, size): pass", "read is `async def`"),
    ("def write(self, inode, offset): pass", "write can't be called as write(inode, offset, data)"),
    ("mkdir = 5", "mkdir is no method"),
    ("def unlink(self, parent, name): yield", "unlink has a `yield` in it"),
    ("async def readdir(self, inode): yield 'x'", "readdir has a `yield` in it"),
    ("def forget(self, inode, count): pass", "forget would never be called: inodes are numbers"),
    ("def opendir(self, inode): pass", "opendir would never be called"),
    ("keeps_worker = 1", "keeps_worker is 1, not True or False"),
]


@pytest.mark.parametrize(("text", "said"), REFUSED, ids=[text[:20] for text, _ in REFUSED])
def test_a_class_that_cannot_work_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    module = f"refused_{abs(hash(text))}"
    (tmp_path / f"{module}.py").write_text(f"{FAULTY}\n    {text}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BackendError) as refused:
        load_file_system(f"{module}:Faulty", {})
    assert str(refused.value).startswith(f"file system {module}:Faulty: {said}")


def test_a_class_is_held_to_what_it_may_open(
    start: Callable[..., Served], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Landlock: what `--sandbox-allow` names, and nothing else; no other rights than any user's class has."""
    (tmp_path / "faulty.py").write_text(FAULTY)
    (tmp_path / "allowed").write_text("yes")
    (tmp_path / "other").write_text("no")
    monkeypatch.chdir(tmp_path)
    served = start(
        "--file-system=faulty:Faulty", "--io-engine=sync", f"--sandbox-allow={tmp_path / 'allowed'}"
    )
    if "no Landlock" in served.engine.log():
        pytest.skip("this kernel has no Landlock")

    def read(what: str) -> str:
        node_id = served.guest.lookup(what).node_id
        return errno_of(READ, served.guest, node_id, struct.pack("<QQIIQII", 0, 0, 100, 0, 0, 0, 0), 100)

    assert read("open('allowed', 'rb').read()") == ""
    assert read("open('other', 'rb').read()") == "EACCES"
    assert read("open('new', 'wb').close()") == "EACCES"
    assert read("os.chown('allowed', 1, 1)") == "EPERM"
    assert read("__import__('socket').socket()") == "EPERM"


def test_options_that_a_class_has_no_use_for(tmp_path: Path) -> None:
    def said(*options: str) -> str:
        done = run_program(f"--socket-path={tmp_path}/socket", "--tag=t", *options, program=PROGRAM)
        assert done.returncode != 0
        return own_lines(done)

    assert "one of --shared-dir and --file-system" in said(*WORDS, f"--shared-dir={tmp_path}")
    assert "not with --file-system" in said(*WORDS, "--dax=inode")
    assert "not with --file-system" in said(*WORDS, "--xattr")
    assert "no argument sounds (it has words)" in said(WORDS[0], "--file-system-arg=sounds=x")
    assert "argument words is missing" in said(WORDS[0])
    assert "not of the form package.module:Class" in said("--file-system=word_folder")
    assert "--backend-arg needs --backend or --file-system" in said(f"--shared-dir={tmp_path}", WORDS[1])
