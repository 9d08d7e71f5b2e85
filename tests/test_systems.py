"""Only the lowest room knows which operating system it is: the rest of the tree names none.

What this cannot see in C the compiler sees (`tests/shm/platform/test_macos.py`). What it cannot see of
methods of Python's objects mypy sees, which lint runs as on macOS, too.
"""

import re

import pytest

from setup import FLOORS, OF_LINUX_ALONE
from tests.rigs.separate_build import ROOT
from tests.rigs.source_code import code_of, with_full_names
from tests.rigs.system_names import MODULES, on_one_only

ROOM = "shm/platform/"
OF_LINUX = {
    "workers/fs/window.pyx": "the DAX window, of shared folders alone",
    "workers/nbd/": "sendmmsg and recvmmsg note in shared memory how far they came, whoever dies",
    "workers/backends/nbd": "the storage that an NBD server keeps",
    "engine/crashes/": "a file system in user space (FUSE) that records what is written",
    "engine/doctor/login_checks.py": "what systemd removes when a user logs out",
}
"""What is a feature of Linux as a whole, and why; docs/portability.md names each."""
_MODULE = rf"(?<![\w.])(?:{'|'.join(MODULES)})"
_TELLING = "platform|sysconfig|_?posix|_socket"
ASKED = (
    r"sys\.platform",
    r"os\.(?:uname|name)\b",
    rf"import (?:{_TELLING})\b(?!\.)",
    rf"(?m:^)(?:{_TELLING})\.\w+(?m:$)",
    r"UNAME_SYSNAME",
    r"__(?:linux|gnu_linux|APPLE|MACH|FreeBSD|unix|GLIBC)__",
    r"TARGET_OS_\w+",
    r"\b(?:RINGBLK_|IS_)?LINUX\b",
    r"RINGBLK_PORTABLE",
)
"""Asking which system it is, or which form was compiled."""
_OF_OURS = r"RINGBLK_(?:CRASH_POINTS|INVARIANTS|RECORD)|__(?:x86_64|i386|aarch64)__"
ASKED_OF_C = (
    rf"#[ \t]*(?:el)?if(?:n?def)?\b(?!(?:[ \t]*(?:\|\|)?[ \t]*(?:defined\()?(?:{_OF_OURS})\)?)+[ \t]*(?m:$))",
)
"""Asking what its headers define."""
ASKED_OF_PYTHON = (
    rf"(?:(?:has|get)attr|vars|dir)\({_MODULE}\b",
    r"(?:getattr\(sys, [\"']platform|(?:vars\(sys|sys\.__dict__))",
    rf"{_MODULE}\.(?:__dict__|__getattr\w+|\*)",
    r"=[ \t]*(?:os|sys|fcntl|select|termios)(?m:$)",
    rf"sys\.modules\[[\"'](?:{'|'.join(MODULES)})\b",
    rf"(?:import_module|__import__)\([\"'](?:{'|'.join(MODULES)}|sys|{_TELLING})\b",
)
"""Asking what it has, or taking one of its modules by another way."""
HEADERS = (
    r"sys/(?:epoll|event|eventfd|fanotify|inotify|prctl|sendfile|signalfd|syscall|sysctl|timerfd|xattr)\.h",
    r"<endian\.h>",
    r"[<\"](?:linux|mach|asm)/",
    r"sched\.h",
)
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
    r"(?<![\w\"'])(?<!def )(?:syscall|prctl|epoll_\w+|timerfd_\w+|preadv2|pwritev2|fallocate|sendmmsg)\(",
    r"(?<![\w\"'])(?:statx|madvise)\(",
    r"\b(?:SYS|__NR)_\w+",
    r"\b(?:RWF|FALLOC_FL|EPOLL|IORING_OP)_\w+\s*=",
    r"POLLRDHUP|SFD_CLOEXEC|EFD_CLOEXEC",
    r"ctypes|posix_ipc",
)
"""What these lists do not tell: the stubs are said to know it of both, or it is C's."""
PLACES = (r"[\"'](?:/dev/shm|/proc|/sys|/run/systemd|/etc/os-release|/System)(?:[/\"'])",)
"""Where one system keeps what it tells of itself; a text for people may name them."""
NAMES_A_SYSTEM = re.compile(
    "|".join([*ASKED, *ASKED_OF_C, *ASKED_OF_PYTHON, *PYTHON, *HEADERS, *CALLS, *PLACES])
)

SOURCES = sorted(
    path.relative_to(ROOT)
    for floor in FLOORS
    for path in (ROOT / floor).rglob("*")
    if path.suffix in (".py", ".pyx", ".pxd")
)


def named_systems(text: str) -> list[str]:
    """What in a source is of one system, its documentation and comments left out."""
    return [found[0] for found in NAMES_A_SYSTEM.finditer(with_full_names(code_of(text)))]


@pytest.mark.parametrize("floor", FLOORS)
def test_only_the_lowest_room_names_a_system(floor: str) -> None:
    others = [path for path in SOURCES if not str(path).startswith((ROOM, *OF_LINUX))]
    named = {str(path): named_systems((ROOT / path).read_text()) for path in others if path.parts[0] == floor}
    assert named != {}
    assert {path: systems for path, systems in named.items() if systems} == {}


C = 'cdef extern from * nogil:\n    """\n    {}\n    """'


@pytest.mark.parametrize(
    "line",
    [
        'if sys.platform == "linux":\n    pass',
        "from sys import platform",
        "import sys as system\nis_linux = system.platform",
        "import platform",
        "from platform import system",
        "import sysconfig",
        'if os.name == "posix":\n    pass',
        "from ringblk.shm.platform.form import LINUX",
        "from ringblk.shm.platform.form cimport IS_LINUX",
        "IF UNAME_SYSNAME == 'Linux':",
        C.format("#ifdef __linux__"),
        C.format("#ifdef EPOLLIN"),
        C.format("#if defined(__x86_64__) || defined(O_DIRECT)"),
        C.format("#elif RINGBLK_LINUX"),
        C.format("typedef int number;\n    #ifdef __APPLE__"),
        'cdef extern from "<sys/epoll.h>" nogil:',
        C.format("#include <linux/fs.h>"),
        "watch = os.pidfd_open(pid)",
        "from os import (\n    getpid,  # ours\n    pidfd_open as watch,\n)",
        "import os as operating\nwatch = operating.pidfd_open(pid)",
        "from os import *",
        "system = os\nwatch = system.pidfd_open(pid)",
        "watch = vars(os)['pidfd_open']",
        'watch = importlib.import_module("os")',
        "import selectors\nnews = selectors.EpollSelector()",
        'program = """\n  # or\n""" + str(os.O_PATH)',
        "if getattr(sys, 'platform') == 'linux':\n    pass",
        'if hasattr(fcntl, "F_OFD_SETLK"):\n    pass',
        'with open("/proc/self/status") as file:\n    pass',
        'folder = Path("/proc", "self")',
        'folder = "/pr" "oc/self"',
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


@pytest.mark.parametrize("kind", ["", "cdef int number\n"])
def test_words_about_a_system_are_no_use_of_it(kind: str) -> None:
    text = '"""What /proc says (pidfd_open(2))."""\n# sys.platform\nvalue = 1  # os.O_PATH\n'
    assert named_systems(f"{text}{kind}import os\nimport ringblk.shm.platform.form\n") == []


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
