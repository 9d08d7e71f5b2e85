"""The echo device's other half: what its driver sees, its gate, and an engine of one as a program.

`python -m tests.rigs.echo_kind OPTIONS` is an engine; ECHO_GATE names the gate's folder.
"""

import argparse
import importlib
import mmap
import os
import struct
import sys
from pathlib import Path
from typing import Any

import msgspec

from ringblk.engine.base.log_format import start_logging
from ringblk.engine.devices.device import ConfigRefused
from ringblk.engine.devices.device_kind import DeviceKind
from ringblk.engine.devices.features import F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1
from ringblk.engine.devices.kinds import register_kind
from ringblk.engine.options.command_line import add_engine_options, config_from
from ringblk.engine.options.drive_config import CacheMode, DriveConfig
from ringblk.engine.program.serve import serve
from ringblk.shm.memory.guest_memory import GuestMemory
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.requests.request import RequestExecutor, RequestParser
from tests.rigs.separate_build import SeparateBuild

GATE_VARIABLE = "ECHO_GATE"
FIRST_LIMIT_BYTES = 4096
_SOURCE = Path(__file__).parent / "kinds" / "echo_requests.pyx"


def echo_folder() -> Path:
    """The folder with the compiled half, to be put into PYTHONPATH."""
    return SeparateBuild("echo-build", ("-O1", "-Wall"), (), extra=(_SOURCE,)).make()


def _compiled() -> Any:
    """The compiled half, from a folder in PYTHONPATH."""
    return importlib.import_module("echo_requests")


class EchoGate:
    """A word in a file that is mapped, and a FIFO that is readable while it is not 0.

    It outlives engines, and all processes of one open it.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "word").exists():
            os.mkfifo(folder / "fifo")
            (folder / "word").write_bytes(bytes(4))
        self.fifo_fd = os.open(folder / "fifo", os.O_RDWR | os.O_NONBLOCK)
        with (folder / "word").open("r+b") as file:
            self.word = mmap.mmap(file.fileno(), 4)

    def open(self) -> None:
        """Let all go on that wait, and those to come."""
        self.word[:] = struct.pack("<I", 1)
        os.write(self.fifo_fd, b"x")

    def shut(self) -> None:
        """Let those to come wait."""
        self.word[:] = bytes(4)
        os.read(self.fifo_fd, 1)

    def close(self) -> None:
        """Let go of it; the files stay."""
        self.word.close()
        os.close(self.fifo_fd)


class EchoDevice:
    """Its config space is one number that the driver may write: how long replies may be."""

    read_only = False
    capacity_bytes = 0
    window_bytes = 0
    logical_block_size_bytes = 1
    cache: CacheMode = "unsafe"
    driver_writeback: bool | None = None
    device_features = F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX

    def __init__(self, config: DriveConfig) -> None:
        self.num_queues = config.num_queues
        self.features = 0
        self._limit_bytes = FIRST_LIMIT_BYTES

    def set_features(self, features: int) -> None:
        self.features = features

    def read_config(self, offset_bytes: int, size_bytes: int) -> bytes:
        return struct.pack("<I", self._limit_bytes)[offset_bytes:][:size_bytes].ljust(size_bytes, b"\0")

    def write_config(self, offset_bytes: int, data: bytes) -> None:
        if (offset_bytes, len(data)) != (0, 4):
            raise ConfigRefused("it is one number")
        (self._limit_bytes,) = struct.unpack("<I", data)

    def begin_ring(self, *, is_in_use: bool) -> bool:
        return True

    def end_rings(self) -> None: ...

    def set_capacity(self, capacity_bytes: int) -> None: ...

    def set_cache(self, cache: CacheMode) -> None: ...

    def remember_writeback(self, writeback: bool | None) -> None: ...

    @property
    def choices(self) -> bytes:
        return struct.pack("<QI", self.features, self._limit_bytes)

    def resume(self, choices: bytes) -> None:
        self.features, self._limit_bytes = struct.unpack("<QI", choices)

    def publish(self, state: StateSegment) -> None:
        _compiled().publish_reply_limit(state, self._limit_bytes)


class EchoRequests:
    """`DriveRequests` of an echo device."""

    def __init__(self, backend: NativeBackend, gate: EchoGate) -> None:
        self._backend = backend
        self._gate = gate

    def make_parser(self, state: StateSegment, memory: GuestMemory) -> RequestParser:
        parser: RequestParser = _compiled().EchoParser(state, memory)
        return parser

    def make_executor(self, state: StateSegment, memory: GuestMemory) -> RequestExecutor:
        word = memoryview(self._gate.word)
        executor: RequestExecutor = _compiled().EchoExecutor(
            state, memory, self._backend, word, self._gate.fifo_fd
        )
        return executor


def make_echo_kind(gate_folder: Path) -> DeviceKind:
    """The kind, for whoever has the compiled half in PYTHONPATH."""
    return DeviceKind(
        name="echo",
        operations=_compiled().OPERATIONS,
        make_device=lambda config, backend: EchoDevice(config),
        request_settings=lambda config: os.fsencode(gate_folder),
        make_requests=lambda folder, backend: EchoRequests(backend, EchoGate(Path(os.fsdecode(folder)))),
        read_capacity_bytes=lambda state: 17,
        system_calls="uname",
    )


def main() -> int:
    """Run an engine; its exit status."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_engine_options(parser)
    config = config_from(parser.parse_args())
    start_logging(config.log_format)
    kind = make_echo_kind(Path(os.environ[GATE_VARIABLE]))
    register_kind(kind)
    drives = {name: msgspec.structs.replace(drive, kind="echo") for name, drive in config.drives.items()}
    return serve(msgspec.structs.replace(config, drives=drives))


if __name__ == "__main__":
    sys.exit(main())
