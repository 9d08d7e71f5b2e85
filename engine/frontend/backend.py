"""Where a front end finds its back end: a socket that one listens on, or a command that starts one."""

import contextlib
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

from ringblk.engine.frontend.output import ErrorOutput
from ringblk.engine.frontend.request import BackendGone

_RETRY_S = 0.01
STOP_TIMEOUT_S = 10.0
"""How long a program may take to end when it is told to."""
_LAST_WORDS_S = 1.0
"""How long a program that has hung up may take to end, and what it said to arrive."""


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
    program ends, or does not listen in start_timeout_s, before there is a connection; TimeoutError at
    `deadline_s` of the monotonic clock; OSError when it cannot be started. What it says on its standard
    error goes to this process's. One that nobody stops is told to end when this object is gone, and at the
    end of the process that made it.
    """

    def __init__(
        self, command: Sequence[str], *, start_timeout_s: float = 30.0, deadline_s: float = math.inf
    ) -> None:
        self._folder: str | None = None
        self._finalizer: weakref.finalize[..., BackendProcess] | None = None
        self._deadline_s = deadline_s
        try:
            self._start(command, min(time.monotonic() + start_timeout_s, deadline_s))
        except BaseException:
            self._remove_folder()
            raise

    def _start(self, command: Sequence[str], give_up_s: float) -> None:
        text = " ".join(command)
        if "{fd}" in text:
            self.connection, theirs = socket.socketpair()
            try:
                with theirs:
                    self._spawn(command, {"{fd}": str(theirs.fileno())}, theirs)
            except BaseException:
                self.connection.close()
                raise
        elif "{listen_fd}" in text:
            path = self._make_path()
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(path)
                listening.listen(1)
                self._spawn(command, {"{listen_fd}": str(listening.fileno())}, listening)
            self._connect(path, give_up_s)
        elif "{socket_path}" in text:
            path = self._make_path()
            self._spawn(command, {"{socket_path}": path}, None)
            self._connect(path, give_up_s)
        else:
            raise ValueError("the command has no {fd}, {listen_fd} or {socket_path}")

    def _make_path(self) -> str:
        self._folder = tempfile.mkdtemp(prefix="ringblk-")
        return str(Path(self._folder, "socket"))

    def _spawn(self, command: Sequence[str], values: dict[str, str], inherited: socket.socket | None) -> None:
        arguments = list(command)
        for placeholder, value in values.items():
            arguments = [argument.replace(placeholder, value) for argument in arguments]
        self._output = ErrorOutput()
        try:
            self.process = subprocess.Popen(
                arguments,
                stderr=self._output.write_fd,
                pass_fds=(inherited.fileno(),) if inherited else (),
            )
        except BaseException:
            self._output.cancel()
            raise
        self._output.begin()
        if self._folder is not None:  # the others end when they are hung up on
            self._finalizer = weakref.finalize(self, _leave, os.getpid(), self.process, self._folder)

    def _connect(self, path: str, give_up_s: float) -> None:
        self.connection = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self.connection.connect(path)
                return
            except (FileNotFoundError, ConnectionRefusedError):
                if self.process.poll() is None and time.monotonic() < give_up_s:
                    time.sleep(_RETRY_S)
                    continue
                self.connection.close()
                gone = self.describe_end()
                gone = gone or BackendGone(f"the back end does not listen: {self.process.args!r}")
                self.stop(_LAST_WORDS_S)
                if time.monotonic() >= self._deadline_s:
                    raise TimeoutError("the back end does not listen in time") from None
                raise gone from None

    def describe_end(self) -> BackendGone | None:
        """What became of a program that has hung up: how it ended and what it said last; None if it runs."""
        try:
            status = self.process.wait(_LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            return None
        killed = f"was killed by {signal.Signals(-status).name}" if status < 0 else ""
        how = killed or f"ended with status {status}"
        said = self._output.last_line(_LAST_WORDS_S)
        return BackendGone(f"the back end {how}: {said or repr(self.process.args)}")

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """End the program: SIGTERM, and SIGKILL when it takes longer than this; its exit status."""
        if self._finalizer is not None:
            self._finalizer.detach()
        self._remove_folder()
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self._output.last_line(_LAST_WORDS_S)  # all of it is passed on by then
        return status

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def abandon(self) -> None:
        """In a forked child: the program and its folder are the parent's."""
        if self._finalizer is not None:
            self._finalizer.detach()
        self._output.abandon()


def _leave(owner_pid: int, process: "subprocess.Popen[bytes]", folder: str) -> None:
    """The object is gone, or its process ends, and nobody has stopped the program."""
    if os.getpid() != owner_pid:
        return
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(ProcessLookupError):
        process.terminate()


def connect_to(path: str | os.PathLike[str], deadline_s: float = math.inf) -> socket.socket:
    """A connection to a back end that listens on a socket; BackendGone when none does.

    Raises TimeoutError where its queue of connections is full until `deadline_s` of the monotonic clock.
    """
    connection = socket.socket(socket.AF_UNIX)
    try:
        if math.isinf(deadline_s):
            connection.connect(os.fspath(path))
        else:
            _connect_before(connection, os.fspath(path), deadline_s)
    except TimeoutError:
        connection.close()
        raise
    except OSError as error:
        connection.close()
        raise BackendGone(f"no back end listens on {os.fspath(path)}: {error}") from error
    return connection


def _connect_before(connection: socket.socket, path: str, deadline_s: float) -> None:
    """Connect without waiting, again and again: a unix socket says nothing when there is room."""
    connection.setblocking(False)
    while True:
        try:
            connection.connect(path)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                raise TimeoutError(f"{path} takes no connection in time") from None
        time.sleep(_RETRY_S)
