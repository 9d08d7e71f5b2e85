"""Only the lowest room knows which operating system it is: the rest of the tree names none."""

import re

import pytest

from setup import FLOORS, OF_LINUX_ALONE
from tests.rigs.separate_build import ROOT
from tests.rigs.system_names import MODULES, on_one_only

ROOM = "shm/platform/"
OF_LINUX = {
    "workers/fs/window.pyx": "the DAX window, of shared folders alone",
    "workers/nbd/": "sendmmsg and recvmmsg note in shared memory how far they came, whoever dies",
    "workers/backends/nbd": "the storage that an NBD server keeps",
    "engine/crashes/": "a file system in user space (FUSE) that records what is written",
}
"""What is a feature of Linux as a whole, and why; docs/portability.md names each."""
ASKED = (
    r"sys\.platform",
    r"os\.uname",
    r"platform\.system",
    r"UNAME_SYSNAME",
    r"__(?:linux|APPLE|FreeBSD|unix)__",
)
"""Asking which system it is."""
HEADERS = (
    r"sys/(?:epoll|event|eventfd|fanotify|inotify|prctl|sendfile|signalfd|syscall|sysctl|timerfd|xattr)\.h",
    r"<endian\.h>",
    r"[<\"]linux/",
    r"sched\.h",
)
_ASKS_PYTHON = "|".join(MODULES)
ASKED_OF_PYTHON = (rf"(?:has|get)attr\((?:{_ASKS_PYTHON})\b",)
"""Asking what it has."""
PYTHON = tuple(
    rf"\b{module}\.(?:{'|'.join(sorted(names))})\b" for module in MODULES if (names := on_one_only(module))
)
"""All that Python has on Linux or on macOS alone, by its stubs."""
CALLS = (
    r"os\.(?:posix_fa\w+|sched_\w+|sendfile)",
    r"socket\.(?:MSG_NOSIGNAL|SOCK_SEQPACKET)",
    r"fcntl\.F_OFD\w+",
    r"termios\.TIOCOUTQ",
    r"mmap\.MADV_",
    r"(?<![\w\"])(?<!def )(?:syscall|prctl|epoll_\w+|timerfd_\w+|preadv2|pwritev2|fallocate|sendmmsg)\(",
    r"(?<![\w\"])(?:statx|madvise)\(",
    r"\b(?:SYS|__NR)_\w+",
    r"\b(?:RWF|FALLOC_FL|EPOLL|IORING_OP)_\w+\s*=",
    r"POLLRDHUP|SFD_CLOEXEC|EFD_CLOEXEC",
    r"ctypes|posix_ipc",
)
"""What these lists do not tell: the stubs are said to know it of both, or it is C's."""
PLACES = (r"[\"'](?:/dev/shm|/proc/|/sys/)",)
"""Where one system keeps what it tells of itself; a text for people may name them."""
NAMES_A_SYSTEM = re.compile("|".join([*ASKED, *ASKED_OF_PYTHON, *PYTHON, *HEADERS, *CALLS, *PLACES]))
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


@pytest.mark.parametrize("floor", FLOORS)
def test_only_the_lowest_room_names_a_system(floor: str) -> None:
    others = [path for path in SOURCES if not str(path).startswith((ROOM, *OF_LINUX))]
    named = {str(path): named_systems((ROOT / path).read_text()) for path in others if path.parts[0] == floor}
    assert named != {}
    assert {path: systems for path, systems in named.items() if systems} == {}


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
        "timer = timerfd_create(CLOCK_MONOTONIC, 0)",
        'look = getattr(os, "O_PATH", 0)',
        "fd = os.open(folder, os.O_TMPFILE)",
        "os.copy_file_range(fd, other_fd, 1)",
        "os.sched_setaffinity(0, {1})",
        "signal.pidfd_send_signal(fd, 9)",
        "fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)",
        "queue = select.kqueue()",
        "end.send(data, socket.MSG_NOSIGNAL)",
        "import ctypes",
        'cdef extern from "<endian.h>" nogil:',
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
    for beginning in OF_LINUX:
        found = [path for path in SOURCES if str(path).startswith(beginning)]
        assert any(named_systems((ROOT / path).read_text()) for path in found), (
            f"{beginning} names none any more"
        )
    assert set(OF_LINUX_ALONE) <= set(OF_LINUX)


def test_the_lists_of_names_are_those_of_the_systems() -> None:
    """Some that are known to be of one, and none that both have."""
    assert {"eventfd", "O_DIRECT", "O_TMPFILE", "memfd_create", "copy_file_range"} <= on_one_only("os")
    assert {"epoll", "kqueue", "EPOLLET", "KQ_EV_CLEAR"} <= on_one_only("select")
    assert {"pidfd_send_signal", "sigtimedwait"} <= on_one_only("signal")
    assert {"F_ADD_SEALS", "F_NOCACHE", "F_FULLFSYNC"} <= on_one_only("fcntl")
    assert not {"read", "O_RDONLY", "O_NOFOLLOW", "mkfifo", "fork"} & on_one_only("os")
