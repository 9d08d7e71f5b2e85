"""The back ends that are measured: our engine, and qemu-storage-daemon where it is installed."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

AIO_MODES = ("native", "io_uring", "threads")
START_TIMEOUT_S = 30.0


class BackendSpec(msgspec.Struct, frozen=True):
    """How a back end is started. In `command`, `{socket}` and `{image}` stand for paths.

    `family` groups the settings of one program, of which the best counts; `cpus` holds it to some CPUs.
    """

    name: str
    family: str
    command: list[str]
    cpus: frozenset[int] | None = None


class BackendFailed(Exception):  # noqa: N818
    """The back end ended or does not listen; the message holds what it said."""


class RunningBackend:
    """A back end that listens on `socket_path`, until close()."""

    def __init__(self, spec: BackendSpec, image: Path) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ringblk-bench-")
        self.socket_path = str(Path(self._folder.name, "socket"))
        self._log = Path(self._folder.name, "log")
        command = [part.format(socket=self.socket_path, image=image) for part in spec.command]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(_held_to(spec.cpus, command), stdout=log, stderr=log)
        try:
            self._wait_for_socket()
        except BaseException:
            self.close()
            raise

    def _wait_for_socket(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _is_listening(self.socket_path):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise BackendFailed(f"{self.process.args!r}: {self._log.read_text()}")
            time.sleep(0.002)

    @property
    def pid(self) -> int:
        """Of the process that was started; others may come from it."""
        return self.process.pid

    def close(self) -> None:
        """End it: SIGTERM, and SIGKILL after ten seconds."""
        self.process.terminate()
        try:
            self.process.wait(10.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._folder.cleanup()

    def __enter__(self) -> "RunningBackend":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def _is_listening(path: str) -> bool:
    """Whether a socket accepts there, without connecting: that would be a session."""
    accepts = f"{0x10000:08X}"  # __SO_ACCEPTCON, the fourth field (proc(5), /proc/net/unix)
    sockets = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return any(fields[3] == accepts and fields[-1] == path for fields in sockets)


def _held_to(cpus: frozenset[int] | None, command: list[str]) -> list[str]:
    wanted = cpus if cpus is not None else frozenset(range(os.cpu_count() or 1))
    return ["taskset", "-c", ",".join(str(cpu) for cpu in sorted(wanted)), *command]


def engine_spec(
    options: Sequence[str] = (),
    *,
    name: str = "ringblk",
    backend_options: Sequence[str] = ("--blk-file={image}",),
    programs: Path = Path(sys.executable).parent,
) -> BackendSpec:
    """Our engine with these options, free to run on any CPU; `programs` is the folder it is installed in."""
    program = programs / "vhost-user-ringblk"
    return BackendSpec(name, "ringblk", [str(program), "--socket-path={socket}", *backend_options, *options])


def storage_daemon_specs(
    aio_modes: Sequence[str], pinned_cpus: frozenset[int] | None, roaming: bool
) -> list[BackendSpec]:
    """qemu-storage-daemon with an iothread, in each of these settings; none where it is not installed."""
    if shutil.which("qemu-storage-daemon") is None:
        return []
    placements: list[tuple[str, frozenset[int] | None]]
    placements = [("pinned", pinned_cpus)] if pinned_cpus is not None else []
    if roaming:
        placements.append(("roaming", None))
    return [
        BackendSpec(f"qsd-{aio}-{placement}", "qsd", _storage_daemon_command(aio), cpus)
        for aio in aio_modes
        for placement, cpus in placements
    ]


def _storage_daemon_command(aio: str) -> list[str]:
    export = "vhost-user-blk,id=e0,node-name=n0,writable=on,iothread=t0,num-queues=4"
    return [
        "qemu-storage-daemon",
        *("--object", "iothread,id=t0"),
        *("--blockdev", f"driver=file,node-name=n0,filename={{image}},cache.direct=on,aio={aio}"),
        *("--export", f"{export},addr.type=unix,addr.path={{socket}}"),
    ]
