"""Only the lowest room knows which operating system it is: the rest of the tree names none."""

import re
from pathlib import Path

import pytest

from setup import FLOORS, compiled_modules
from tests.rigs.separate_build import ROOT

ROOM = "shm/platform/"
OF_LINUX = {
    "workers/fs/": "file handles, O_PATH and access control lists are what a shared folder is made of",
    "workers/backends/folder.py": "the storage of a shared folder",
    "engine/crashes/": "a file system in user space (FUSE) that records what is written",
    "engine/supervisor/cgroup.py": "control groups: --cgroup names a folder of cgroup v2",
}
"""What is a feature of Linux as a whole, and why."""
NOT_PORTED = ("workers/nbd/", "workers/backends/nbd", "workers/backends/rbd")
"""What has no portable form yet, though other systems could give one."""
ASKED = (
    r"sys\.platform",
    r"os\.uname",
    r"platform\.system",
    r"UNAME_SYSNAME",
    r"__(?:linux|APPLE|FreeBSD|unix)__",
    r"hasattr\((?:os|fcntl|select|signal|socket|mmap)\b",
)
"""Asking which system it is, or what it has."""
HEADERS = (
    r"sys/(?:epoll|event|eventfd|prctl|signalfd|syscall|sysctl)\.h",
    r"[<\"]linux/",
    r"sched\.h",
)
CALLS = (
    r"select\.(?:epoll|kqueue)",
    r"os\.(?:eventfd|pidfd|memfd|sched_|posix_fa|setres|getres|(?:get|set|remove)xattr|pipe2|sendfile|splice)",
    r"os\.(?:O_DIRECT\b|O_PATH|O_TMPFILE|copy_file_range)",
    r"signal\.pidfd",
    r"fcntl\.(?:F_OFD|F_NOCACHE|F_FULLFSYNC|F_ADD_SEALS|F_GETPATH)",
    r"socket\.(?:SO_PEERCRED|SO_PEEK_OFF|MSG_NOSIGNAL|MSG_CMSG_CLOEXEC|SOCK_SEQPACKET)",
    r"termios\.TIOCOUTQ",
    r"mmap\.MADV_",
    r"(?<![\w\"])(?:syscall|prctl|epoll_\w+|preadv2|pwritev2|fallocate|sendmmsg|statx|madvise)\(",
    r"\b(?:SYS|__NR)_\w+",
    r"\b(?:RWF|FALLOC_FL|EPOLL|IORING_OP)_\w+\s*=",
    r"POLLRDHUP|SFD_CLOEXEC|EFD_CLOEXEC",
    r"posix_ipc",
)
PLACES = (r"[\"'](?:/dev/shm|/proc/|/sys/)",)
"""Where one system keeps what it tells of itself; a text for people may name them."""
NAMES_A_SYSTEM = re.compile("|".join([*ASKED, *HEADERS, *CALLS, *PLACES]))
_DOCUMENTATION = re.compile(r'"""(?!\n    (?:#|static)).*?"""', re.DOTALL)

SOURCES = sorted(
    path.relative_to(ROOT)
    for floor in FLOORS
    for path in (ROOT / floor).rglob("*")
    if path.suffix in (".py", ".pyx", ".pxd")
)


def named_systems(text: str) -> list[str]:
    """What in a source is of one system, its documentation and comments left out."""
    code = _DOCUMENTATION.sub("", text)
    lines = [line.partition("  # ")[0] for line in code.splitlines() if not line.lstrip().startswith("# ")]
    return NAMES_A_SYSTEM.findall("\n".join(lines))


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_only_the_lowest_room_names_a_system(path: Path) -> None:
    if str(path).startswith((ROOM, *OF_LINUX, *NOT_PORTED)):
        return
    assert named_systems((ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        'if sys.platform == "linux":',
        "IF UNAME_SYSNAME == 'Linux':",
        "    #ifdef __linux__",
        'cdef extern from "<sys/epoll.h>" nogil:',
        "    #include <linux/fs.h>",
        "watch = os.pidfd_open(pid)",
        'if hasattr(fcntl, "F_OFD_SETLK"):',
        'with open("/proc/self/status") as file:',
        "import posix_ipc",
        "    return syscall(SYS_statx, fd)",
        "fd = os.open(path, os.O_PATH | os.O_CLOEXEC)",
    ],
)
def test_a_system_that_is_named_is_found(line: str) -> None:
    assert named_systems(f"import os\n{line}\n") != []


def test_words_about_a_system_are_no_use_of_it() -> None:
    assert (
        named_systems('"""What /proc says (pidfd_open(2))."""\n# sys.platform\nvalue = 1  # os.O_PATH\n')
        == []
    )


def test_each_feature_of_linux_is_there_still() -> None:
    assert [path for path in OF_LINUX if not (ROOT / path).exists()] == []
    assert compiled_modules(ROOT)
