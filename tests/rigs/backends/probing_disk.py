"""A disk that tries the walls of its worker's sandbox, and tells what came of it in the data it gives."""

import ctypes
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

PTRACE_ATTACH = 16
ANSWER_BYTES = 4096


class ProbingDisk:
    """`folder` holds what was there before: a file `other`, and a folder `allowed`."""

    read_only = False

    def __init__(self, size_bytes: int, folder: Path) -> None:
        self.size_bytes = size_bytes
        self.folder = folder
        self.inherited = (folder / "other").open("rb", buffering=0)

    def start_worker(self) -> None:
        """Not confined yet, but without privileges."""
        self.opened = (self.folder / "other").open("rb", buffering=0)

    def read_at(self, offset_bytes: int, buffer: memoryview) -> None:
        """The answers, as JSON in one block."""
        answers = {name: outcome(getattr(self, name)) for name in dir(self) if name.startswith("try_")}
        buffer[:] = json.dumps(answers).encode().ljust(len(buffer))

    def write_at(self, offset_bytes: int, buffer: memoryview) -> None:
        """Takes what the sandbox refuses, without catching it."""
        socket.socket(socket.AF_UNIX)

    def flush(self) -> None:
        pass

    def try_inherited(self) -> str:
        return os.pread(self.inherited.fileno(), 5, 0).decode()

    def try_opened_at_start(self) -> str:
        return os.pread(self.opened.fileno(), 5, 0).decode()

    def try_allowed(self) -> str:
        path = self.folder / "allowed" / str(os.getpid())
        path.write_text("written")
        text = path.read_text()
        path.unlink()
        return text

    def try_thread(self) -> str:
        texts: list[str] = []
        thread = threading.Thread(target=lambda: texts.append(outcome(self.try_other)))
        thread.start()
        thread.join()
        return texts[0]

    def try_other(self) -> str:
        return (self.folder / "other").read_text()

    def try_folder(self) -> str:
        return str(os.listdir("/"))

    def try_leaving_the_allowed(self) -> str:
        return (self.folder / "allowed" / ".." / "other").read_text()

    def try_memory_of_the_supervisor(self) -> str:
        return Path(f"/proc/{os.getppid()}/mem").open("rb").name

    def try_unix_socket(self) -> str:
        return str(socket.socket(socket.AF_UNIX))

    def try_network(self) -> str:
        return str(socket.socket(socket.AF_INET))

    def try_exec(self) -> str:
        return str(os.execv("/bin/true", ["true"]))

    def try_fork(self) -> str:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        return str(pid)

    def try_ptrace(self) -> str:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.ptrace(PTRACE_ATTACH, os.getppid(), 0, 0) < 0:
            raise OSError(ctypes.get_errno(), "ptrace")
        return "attached"

    def try_signal(self) -> str:
        os.kill(os.getppid(), 0)
        return "sent"

    def try_becoming_root(self) -> str:
        os.setuid(0)
        return "root"


class ThreadedDisk(ProbingDisk):
    """A disk that has a thread before it has a request."""

    def start_worker(self) -> None:
        threading.Thread(target=threading.Event().wait, daemon=True).start()


def outcome(attempt: Callable[[], str]) -> str:
    """What it gives, or which error."""
    try:
        return attempt()
    except OSError as error:
        return f"{type(error).__name__}"
