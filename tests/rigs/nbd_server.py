"""NBD servers to test against: nbdkit and qemu-nbd, which can be killed and started again."""

import contextlib
import importlib.util
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import pytest

from tests.rigs.child_process import ends_with_tests
from tests.rigs.tls_certificates import Certificates

START_TIMEOUT_S = 30.0
_POLL_S = 0.002


def missing_reason(*programs: str) -> str:
    """Why tests with NBD are skipped here; empty: nothing is missing."""
    if importlib.util.find_spec("ringblk.workers.nbd.handshake") is None:
        return "the package was built without libnbd (scripts/setup-remote)"
    missing = [program for program in programs if shutil.which(program) is None]
    return f"there is no {', '.join(missing)} (scripts/setup-remote)" if missing else ""


def needs_nbd(*programs: str) -> pytest.MarkDecorator:
    """Skip where the package has no libnbd, or one of these programs is not there."""
    reason = missing_reason(*programs)
    return pytest.mark.skipif(bool(reason), reason=reason)


class NbdServer:
    """A server in a process of its own on a unix socket, or with `port` on that of TCP.

    `command` is without the transport: nbdkit's arguments, or qemu-nbd's. With `tls` it takes encrypted
    connections alone, of clients that have a certificate.
    """

    def __init__(
        self, folder: Path, command: Sequence[str], port: int | None = None, tls: Certificates | None = None
    ) -> None:
        self._tls = tls
        self._socket_path = folder / "nbd.sock"
        self._port = port
        self._command = self._with_transport(command)
        self._log_path = folder / "nbd.log"
        self._process = self._start()

    @property
    def uri(self) -> str:
        """Of its default export."""
        encrypted, wants = "", ""
        if self._tls is not None:
            encrypted, wants = "s", f"tls-certificates={self._tls.client}"
        if self._port is not None:
            return f"nbd{encrypted}://127.0.0.1:{self._port}/{wants and '?'}{wants}"
        return f"nbd{encrypted}+unix:///?socket={self._socket_path}{wants and '&'}{wants}"

    def _with_transport(self, command: Sequence[str]) -> list[str]:
        program, *arguments = command
        if self._tls is not None:
            arguments = [*self._tls_arguments(program), *arguments]
        if program == "nbdkit":
            place = ["-U", str(self._socket_path)]
            if self._port is not None:
                place = ["-i", "127.0.0.1", "-p", str(self._port)]
            return [program, "-f", *place, *arguments]
        place = ["-k", str(self._socket_path)]
        if self._port is not None:
            place = ["-b", "127.0.0.1", "-p", str(self._port)]
        return [program, "--persistent", *place, *arguments]

    def _tls_arguments(self, program: str) -> list[str]:
        assert self._tls is not None
        if program == "nbdkit":
            return ["--tls=require", f"--tls-certificates={self._tls.server}", "--tls-verify-peer"]
        creds = f"tls-creds-x509,id=tls,dir={self._tls.server},endpoint=server,verify-peer=yes"
        return ["--object", creds, "--tls-creds=tls"]

    def _start(self) -> "subprocess.Popen[bytes]":
        self._socket_path.unlink(missing_ok=True)
        with self._log_path.open("ab") as log:
            process = subprocess.Popen(ends_with_tests(self._command), stderr=log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._accepts():
            assert process.poll() is None, self._log_path.read_text()
            assert time.monotonic() < deadline, self._log_path.read_text()
            time.sleep(_POLL_S)
        return process

    def _accepts(self) -> bool:
        family = socket.AF_UNIX if self._port is None else socket.AF_INET
        with socket.socket(family) as end, contextlib.suppress(OSError):
            end.connect(str(self._socket_path) if self._port is None else ("127.0.0.1", self._port))
            return True
        return False

    def kill(self) -> None:
        """SIGKILL, as a crash does."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def restart(self) -> None:
        """Kill it, and start it again in the same place."""
        self.kill()
        self._process = self._start()

    def __enter__(self) -> "NbdServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()


def free_port() -> int:
    """A port of TCP that nobody has at the moment."""
    with socket.socket() as end:
        end.bind(("127.0.0.1", 0))
        return int(end.getsockname()[1])
