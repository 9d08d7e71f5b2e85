"""Many drives at once: our engines and qemu-storage-daemon, each drive by itself or one for all."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from tests.bench.backends import BackendFailed
from tests.bench.processes import descendants

START_TIMEOUT_S = 120.0
_LOOK_S = 0.002
_ACCEPTS = f"{0x10000:08X}"  # __SO_ACCEPTCON, the fourth field (proc(5), /proc/net/unix)


class FleetSpec(msgspec.Struct, frozen=True):
    """How many drives are served: `commands` makes one command line or several of sockets and images."""

    name: str
    family: str
    commands: Callable[[Sequence[Path], Sequence[Path]], list[list[str]]]


class Fleet:
    """Drives that are served, until close()."""

    def __init__(self, spec: FleetSpec, images: Sequence[Path]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ringblk-bench-")
        folder = Path(self._folder.name)
        self.sockets = [folder / f"socket-{index}" for index in range(len(images))]
        self._log = folder / "log"
        environment = {name: os.environ[name] for name in os.environ if name != "PYTHONDONTWRITEBYTECODE"}
        begin_s = time.perf_counter()
        with self._log.open("wb") as log:
            self._processes = [
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
                for command in spec.commands(self.sockets, images)
            ]
        try:
            self._wait_for_sockets()
        except BaseException:
            self.close()
            raise
        self.start_s = time.perf_counter() - begin_s
        """From the first exec to the moment at which all sockets accept."""

    def _wait_for_sockets(self) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        wanted = {str(path) for path in self.sockets}
        while not wanted <= _listening():
            if any(process.poll() is not None for process in self._processes):
                raise BackendFailed(self._log.read_text())
            if time.monotonic() > deadline_s:
                raise BackendFailed(f"not all sockets accept: {self._log.read_text()}")
            time.sleep(_LOOK_S)

    @property
    def main_pids(self) -> list[int]:
        """Those that were started."""
        return [process.pid for process in self._processes]

    def pids(self) -> list[int]:
        """All processes that there are now."""
        return [pid for process in self._processes for pid in descendants(process.pid)]

    def close(self) -> None:
        """End them: SIGTERM, and SIGKILL after a while."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(30.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._folder.cleanup()

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def _listening() -> set[str]:
    sockets = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return {fields[-1] for fields in sockets if fields[3] == _ACCEPTS}


def engine_fleet(
    options: Sequence[str] = (), *, name: str = "ringblk", programs: Path = Path(sys.executable).parent
) -> FleetSpec:
    """An engine for each drive; `programs` is the folder it is installed in."""
    program = str(programs / "vhost-user-ringblk")

    def commands(sockets: Sequence[Path], images: Sequence[Path]) -> list[list[str]]:
        return [
            [program, f"--socket-path={path}", f"--blk-file={image}", *options]
            for path, image in zip(sockets, images, strict=True)
        ]

    return FleetSpec(f"{name}, an engine each", name, commands)


def one_engine_fleet(
    options: Sequence[str] = (), *, name: str = "ringblk", programs: Path = Path(sys.executable).parent
) -> FleetSpec:
    """One engine with a list of drives; `options` are of the form `--name=value` or `--name`."""

    def commands(sockets: Sequence[Path], images: Sequence[Path]) -> list[list[str]]:
        settings = dict(map(_setting, options))
        drives = {
            f"drive-{index}": {"socket_path": str(path), "blk_file": str(image), **settings}
            for index, (path, image) in enumerate(zip(sockets, images, strict=True))
        }
        config = sockets[0].with_name("engine.json")
        config.write_bytes(msgspec.json.encode({"drives": drives}))
        return [[str(programs / "vhost-user-ringblk"), f"--config={config}"]]

    return FleetSpec(f"{name}, one engine", name, commands)


def _setting(option: str) -> tuple[str, object]:
    """An option as a configuration file has it."""
    name, _, value = option.removeprefix("--").partition("=")
    return name.replace("-", "_"), int(value) if value.isdecimal() else value or True


def storage_daemon_fleets(*, is_installed: bool) -> list[FleetSpec]:
    """qemu-storage-daemon for each drive, and one for all; none where it is not installed."""
    if not is_installed:
        return []
    return [
        FleetSpec("qemu-storage-daemon, a process each", "qsd", _daemons),
        FleetSpec("qemu-storage-daemon, one, a thread each", "qsd", _one_daemon_with_threads),
        FleetSpec("qemu-storage-daemon, one", "qsd", _one_daemon),
    ]


def _daemons(sockets: Sequence[Path], images: Sequence[Path]) -> list[list[str]]:
    return [
        ["qemu-storage-daemon", *_export(0, path, image, has_thread=True)]
        for path, image in zip(sockets, images, strict=True)
    ]


def _one_daemon_with_threads(sockets: Sequence[Path], images: Sequence[Path]) -> list[list[str]]:
    exports = enumerate(zip(sockets, images, strict=True))
    parts = [part for index, pair in exports for part in _export(index, *pair, has_thread=True)]
    return [["qemu-storage-daemon", *parts]]


def _one_daemon(sockets: Sequence[Path], images: Sequence[Path]) -> list[list[str]]:
    exports = enumerate(zip(sockets, images, strict=True))
    parts = [part for index, pair in exports for part in _export(index, *pair, has_thread=False)]
    return [["qemu-storage-daemon", *parts]]


def _export(index: int, socket_path: Path, image: Path, *, has_thread: bool) -> list[str]:
    export = (
        f"vhost-user-blk,id=e{index},node-name=n{index},writable=on,addr.type=unix,addr.path={socket_path}"
    )
    return [
        *(("--object", f"iothread,id=t{index}") if has_thread else ()),
        *("--blockdev", f"driver=file,node-name=n{index},filename={image},cache.direct=on,aio=native"),
        *("--export", f"{export},iothread=t{index}" if has_thread else export),
    ]
