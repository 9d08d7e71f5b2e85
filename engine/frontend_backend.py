"""Where a front end finds its back end: a socket that one listens on, or a command that starts one."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ringblk.engine.frontend_request import BackendGone

_RETRY_S = 0.01


def engine_command(*options: str) -> list[str]:
    """The command that starts this package's own engine with these options, e.g. "--blk-file=disk.img"."""
    beside_python = Path(sys.executable).with_name("vhost-user-ringblk")
    program = str(beside_python) if beside_python.exists() else shutil.which("vhost-user-ringblk")
    if program is None:
        raise FileNotFoundError("vhost-user-ringblk is not installed")
    return [program, "--fd={fd}", *options]


class BackendProcess:
    """A back end that was started from a command, and the connection to it.

    In the command, `{fd}` stands for the number of a connected socket, `{listen_fd}` for that of a listening
    one, and `{socket_path}` for a path to listen on; it has one of them. Raises BackendGone when the
    program ends, or does not listen in start_timeout_s, before there is a connection; OSError when it
    cannot be started.
    """

    def __init__(self, command: Sequence[str], start_timeout_s: float = 30.0) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ringblk-")
        try:
            self._start(command, time.monotonic() + start_timeout_s)
        except BaseException:
            self._folder.cleanup()
            raise

    def _start(self, command: Sequence[str], deadline: float) -> None:
        text = " ".join(command)
        path = str(Path(self._folder.name, "socket"))
        if "{fd}" in text:
            self.connection, theirs = socket.socketpair()
            with theirs:
                self._spawn(command, {"{fd}": str(theirs.fileno())}, theirs)
        elif "{listen_fd}" in text:
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(path)
                listening.listen(1)
                self._spawn(command, {"{listen_fd}": str(listening.fileno())}, listening)
            self._connect(path, deadline)
        elif "{socket_path}" in text:
            self._spawn(command, {"{socket_path}": path}, None)
            self._connect(path, deadline)
        else:
            raise ValueError("the command has no {fd}, {listen_fd} or {socket_path}")

    def _spawn(self, command: Sequence[str], values: dict[str, str], inherited: socket.socket | None) -> None:
        arguments = list(command)
        for placeholder, value in values.items():
            arguments = [argument.replace(placeholder, value) for argument in arguments]
        self.process = subprocess.Popen(arguments, pass_fds=(inherited.fileno(),) if inherited else ())

    def _connect(self, path: str, deadline: float) -> None:
        self.connection = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self.connection.connect(path)
                return
            except (FileNotFoundError, ConnectionRefusedError):
                status = self.process.poll()
                if status is None and time.monotonic() < deadline:
                    time.sleep(_RETRY_S)
                    continue
                self.connection.close()
                self.stop()
                said = "does not listen" if status is None else f"ended with status {status}"
                raise BackendGone(f"the back end {said}: {self.process.args!r}") from None

    def stop(self, timeout_s: float = 10.0) -> int:
        """End the program: SIGTERM, and SIGKILL when it takes longer than this; its exit status."""
        self._folder.cleanup()
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def connect_to(path: str | os.PathLike[str]) -> socket.socket:
    """A connection to a back end that listens on a socket; BackendGone when none does."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(os.fspath(path))
    except OSError as error:
        connection.close()
        raise BackendGone(f"no back end listens on {os.fspath(path)}: {error}") from error
    return connection
