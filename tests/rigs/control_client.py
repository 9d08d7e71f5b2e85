"""A client of the control API, and an engine to talk to, for tests."""

import contextlib
import http.client
import json
import os
import select
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ringblk import Frontend, RequestType
from tests.rigs.standing_workers import PROGRAM

ONE_IN_TEN_MINUTES = {"ops": {"size": 1, "refill_time": 600_000}}
"""A limit, in Firecracker's form, that lets one request go."""
TIMEOUT_S = 30.0  # how long anything may take before a test fails; nothing waits for it to pass
DISK_BYTES = 4 << 20


class ControlClient:
    """One request at a time, each on a connection of its own."""

    def __init__(self, socket_path: Path) -> None:
        self.socket_path = socket_path

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Status and decoded body. A body of bytes is sent as it is."""
        status, data = self.ask_raw(method, path, body)
        return status, json.loads(data)

    def ask_raw(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        """Status and body, once the server has closed its end: nothing of the connection is left there."""
        connection = http.client.HTTPConnection("localhost", timeout=TIMEOUT_S)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(TIMEOUT_S)
        connection.sock.connect(str(self.socket_path))
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            with connection.sock.dup() as end:
                connection.request(method, path, data, {"Connection": "close"})
                answer = connection.getresponse()
                answered = answer.read()
                with contextlib.suppress(ConnectionError):
                    while end.recv(4096):
                        pass
            return answer.status, answered
        finally:
            connection.close()

    def get(self, path: str = "/") -> Any:
        """The body of something that must be there."""
        status, body = self.ask("GET", path)
        assert status == 200, body
        return body

    def change(self, path: str, **fields: object) -> Any:
        """PATCH, which must succeed."""
        status, body = self.ask("PATCH", path, fields)
        assert status == 200, body
        return body

    def post(self, path: str) -> Any:
        """POST, which must succeed."""
        status, body = self.ask("POST", path)
        assert status == 200, body
        return body

    @property
    def processes(self) -> dict[str, int]:
        """Process ids by role."""
        processes: dict[str, int] = self.get()["processes"]
        return processes

    def operation(self, name: str) -> Any:
        """The statistics of one operation."""
        return next(item for item in self.get("/stats")["operations"] if item["operation"] == name)

    def wait_for(self, wanted: Callable[[Any], bool]) -> Any:
        """Ask for the description until it is as wanted (each answer comes when the engine gives it)."""
        while not wanted(description := self.get()):
            os.sched_yield()
        return description


class ControlledEngine:
    """A running engine with a file, a front end that is connected to it, and its control API.

    `launcher` is a program that becomes the one that stands behind it.
    """

    def __init__(self, folder: Path, *options: str, launcher: Sequence[str] = ()) -> None:
        self.image = folder / "disk.img"
        self.image.write_bytes(bytes(DISK_BYTES))
        self.control = ControlClient(folder / "control.sock")
        # All workers from the start: what is asked about them is to be there.
        command = [
            *PROGRAM,
            "--fd={fd}",
            f"--blk-file={self.image}",
            f"--control={self.control.socket_path}",
            *options,
        ]
        self.frontend = Frontend([*launcher, *command], request_timeout_s=TIMEOUT_S)

    def submit_write(self, offset_bytes: int, size_bytes: int = 4096) -> int:
        """Begin a write of ones, which may lie outside of the disk; its token."""
        buffer = self.frontend.allocate(size_bytes)
        memoryview(buffer)[:] = b"\1" * size_bytes
        token = self.frontend.submit_request(RequestType.OUT, offset_bytes // 512, buffer)
        self.frontend.submit()
        return token

    def finish(self, *tokens: int) -> list[int]:
        """Wait for requests; their statuses."""
        return [int(self.frontend.wait(token, TIMEOUT_S).status) for token in tokens]

    def close(self) -> None:
        """End the engine."""
        self.frontend.close()


def kill_and_reap(pid: int) -> None:
    """Kill a process that is another's child, and return when it has ended."""
    pidfd = os.pidfd_open(pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    select.select([pidfd], [], [])
    os.close(pidfd)


def stop_process(pid: int) -> None:
    """Stop a process, and return when it has stopped."""
    os.kill(pid, signal.SIGSTOP)
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        os.sched_yield()
