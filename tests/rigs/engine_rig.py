"""A whole engine in processes of its own, and a raw driver to talk to it as no correct front end would."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ringblk.engine.devices.features import F_EVENT_IDX
from ringblk.engine.drives.record import record_of_process
from ringblk.engine.frontend.connection import FrontendConnection
from ringblk.engine.vhost_user.codes import F_LOG_ALL, VRING_F_LOG, ProtocolFeature
from ringblk.engine.vhost_user.messages import VringAddress
from ringblk.shm.segments.shared_folder import shared_names
from ringblk.shm.state.segment import SEGMENT_PREFIX
from tests.rigs import standing_workers
from tests.rigs.child_process import ends_with_tests, environment_with_path, wait_end
from tests.rigs.inline_device import GPA, UVA_OFFSET, GuestRam
from tests.rigs.left_records import note_socket
from tests.rigs.mock_driver import MockDriver
from tests.rigs.process_tree import children_of, drive_processes_of, has_ended, process_name, zygotes_of

PROGRAM = str(Path(sys.executable).with_name("vhost-user-ringblk"))
BACKENDS = str(Path(__file__).with_name("backends"))
NOBODY = 65534
MEMORY_BYTES = 1 << 20
MEMORY = ("--backend=memory", f"--backend-arg=size_bytes={MEMORY_BYTES}")
"""Options of a small drive in memory."""
DEADLINE_S = 30.0  # how long anything may take before a test fails; nothing waits for it to pass
RINGS_BYTES = 0x4000  # of guest memory for each queue's rings and requests


def own_lines(done: subprocess.CompletedProcess[str]) -> str:
    """What a program wrote to stderr, but for its word on engines that were killed before it started."""
    lines = done.stderr.splitlines(keepends=True)
    return "".join(line for line in lines if "engines that were killed" not in line)


def accepts(socket_path: Path) -> bool:
    """Whether somebody listens there: a socket has its name a moment before that."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(socket_path)) == 0


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.002)


def run_program(
    *options: str, prepare: Callable[[], object] | None = None, program: Sequence[str] = (PROGRAM,)
) -> subprocess.CompletedProcess[str]:
    """Run the program to its end, which leaves no segment; `prepare` is called in its process before."""
    with subprocess.Popen(
        ends_with_tests([*program, *options]),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=prepare,
    ) as process:
        output, errors = process.communicate(timeout=DEADLINE_S)
    assert shared_names(f"{SEGMENT_PREFIX}{process.pid}") == []
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def environment() -> dict[str, str]:
    return environment_with_path(BACKENDS)


class Engine:
    """A running engine that listens on a socket path, or serves `fd`.

    `prepare` is called in its process before the program; `owner` is a user to own the folder it works in.
    `after` is an engine whose folder, and so whose socket, this one has: its predecessor.
    """

    def __init__(
        self,
        *options: str,
        fd: int | None = None,
        prepare: Callable[[], object] | None = None,
        owner: int | None = None,
        after: "Engine | None" = None,
        program: Sequence[str] = (PROGRAM,),
    ) -> None:
        self._folder: tempfile.TemporaryDirectory[str] = (
            after._folder if after else tempfile.TemporaryDirectory(prefix="ringblk-test-")
        )
        self._is_successor = after is not None
        self.folder = Path(self._folder.name)
        self.socket_path = self.folder / "socket"
        note_socket(self.socket_path)
        if owner is not None:
            os.chown(self.folder, owner, -1)
        self._log_path = self.folder / f"log-{len(list(self.folder.glob('log*')))}"
        way = f"--socket-path={self.socket_path}" if fd is None else f"--fd={fd}"
        with self._log_path.open("wb") as log:
            self.process = subprocess.Popen(
                ends_with_tests([*program, way, *options]),
                stderr=log,
                env=environment(),
                pass_fds=() if fd is None else (fd,),
                preexec_fn=prepare,
            )
        if fd is None:
            serves = "sandbox " if after else ""  # the predecessor may listen still
            eventually(
                lambda: (serves in self.log() and self.is_listening()) or self.process.poll() is not None,
                "listening",
            )
            assert self.process.poll() is None, self.log()
            self.say_hello()
            own_name = process_name(self.process.pid)
            eventually(
                lambda: own_name not in map(process_name, children_of(self.process.pid)),
                "that what it has forked has begun",
            )

    def is_listening(self) -> bool:
        return accepts(self.socket_path)

    def say_hello(self) -> None:
        """A session that asks one thing: when it is over, the engine and all earlier sessions are settled."""
        connected = socket.socket(socket.AF_UNIX)
        connected.connect(str(self.socket_path))
        connection = FrontendConnection(connected, DEADLINE_S)
        try:
            connection.get_features()
        finally:
            connection.close()

    @property
    def segment_name(self) -> str:
        return f"{SEGMENT_PREFIX}{self.process.pid}"

    def log(self) -> str:
        return self._log_path.read_text()

    def children(self) -> set[int]:
        """Dispatcher and workers."""
        return set(drive_processes_of(self.process.pid))

    def zygote(self) -> int:
        """The zygote, which must be there."""
        (pid,) = zygotes_of(self.process.pid)
        return pid

    def open_fds(self) -> dict[int, int]:
        """How many descriptors each process has open."""
        return {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in (self.process.pid, *self.children())}

    def mappings(self) -> dict[int, int]:
        """How many mappings of guest memory each process has."""
        pids = (self.process.pid, *self.children())
        return {pid: Path(f"/proc/{pid}/maps").read_text().count("guest-ram") for pid in pids}

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; the exit status."""
        self.process.send_signal(number)
        return wait_end(self.process, DEADLINE_S)

    def assert_nothing_left(self, children: set[int]) -> None:
        assert not self.socket_path.exists()
        assert shared_names(self.segment_name) == []
        eventually(lambda: all(map(has_ended, children)), "the children's end")

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if error is not None:
            sys.stderr.write(self.log())
        if (left := record_of_process(self.process.pid, [NOBODY])) is not None:
            left.remove()
        if not self._is_successor:
            self._folder.cleanup()


class EngineWithWorkers(Engine):
    """An engine all of whose workers are up from the start."""

    def __init__(self, *options: str, **arguments: Any) -> None:
        super().__init__(*options, program=standing_workers.PROGRAM, **arguments)


class RawQueue:
    """One queue: the mock driver, and the eventfds."""

    def __init__(self, driver: MockDriver) -> None:
        self.driver = driver
        self.kick_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.call_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.err_fd = os.eventfd(0, os.EFD_NONBLOCK)

    def kick(self) -> None:
        os.eventfd_write(self.kick_fd, 1)

    def wait_used(self, count: int) -> list[tuple[int, int]]:
        """Wait until so many chains came back."""
        used = self.driver.used()
        while len(used) < count:
            ready, _, _ = select.select([self.call_fd], [], [], DEADLINE_S)
            assert ready, f"{len(used)} of {count} chains came back"
            os.eventfd_read(self.call_fd)
            used += self.driver.used()
        return used

    def offer(
        self, request_type: int, sector: int = 0, *, data: bytes = b"", read_bytes: int = 0, head: int = 0
    ) -> int:
        """Offer a request of two descriptors from `head` on, and kick; where the device writes."""
        readable = request_type.to_bytes(4, "little") + bytes(4) + sector.to_bytes(8, "little") + data
        driver = self.driver
        readable_gpa = driver.place(readable)
        writable_gpa = driver.place(b"\xff" * (read_bytes + 1))
        pieces = [(readable_gpa, len(readable), False), (writable_gpa, read_bytes + 1, True)]
        driver.offer(driver.make_chain(pieces, indices=[head, head + 1]))
        self.kick()
        return writable_gpa

    def request(
        self, request_type: int, sector: int = 0, *, data: bytes = b"", read_bytes: int = 0
    ) -> tuple[int, bytes]:
        """One request from beginning to end; status and data."""
        self.driver.forget_places()
        gpa = self.offer(request_type, sector, data=data, read_bytes=read_bytes)
        self.wait_used(1)
        written = self.driver.read(gpa, read_bytes + 1)
        return written[-1], written[:-1]

    def close(self) -> None:
        for fd in (self.kick_fd, self.call_fd, self.err_fd):
            os.close(fd)


class RawFrontend:
    """A front end without manners: connection, memory, queues, all of it open to the test."""

    declined = ProtocolFeature(0)
    """What it does not take, though it is offered."""

    def __init__(
        self,
        engine: Engine | socket.socket,
        *,
        num_queues: int = 1,
        queue_size: int = 16,
        ram_bytes: int = 1 << 20,
        cuts: Sequence[int] = (),
        start_idx: int = 0,
    ) -> None:
        self.connect(engine)
        self.ram = GuestRam(ram_bytes, cuts)
        self.queues = []
        for queue_index in range(num_queues):
            driver = MockDriver(self.ram.view, GPA, queue_size, rings_gpa=GPA + queue_index * RINGS_BYTES)
            driver.start_at(start_idx)
            self.queues.append(RawQueue(driver))

    def connect(self, engine: Engine | socket.socket) -> None:
        if isinstance(engine, Engine):
            connected = socket.socket(socket.AF_UNIX)
            connected.connect(str(engine.socket_path))
        else:
            connected = engine
        self.connection = FrontendConnection(connected, DEADLINE_S)

    def negotiate(self, features: int | None = None) -> None:
        offered = self.connection.get_features()
        wanted = ProtocolFeature.MQ | ProtocolFeature.REPLY_ACK | ProtocolFeature.CONFIG
        wanted |= ProtocolFeature.CONFIGURE_MEM_SLOTS | ProtocolFeature.RESET_DEVICE
        wanted |= ProtocolFeature.INFLIGHT_SHMFD | ProtocolFeature.BACKEND_REQ | ProtocolFeature.LOG_SHMFD
        wanted |= ProtocolFeature.SHMEM | ProtocolFeature.BACKEND_SEND_FD
        self.connection.set_owner()
        self.connection.negotiate_protocol_features(wanted & ~self.declined)
        self.features = offered & ~(F_EVENT_IDX | F_LOG_ALL) if features is None else features
        self.connection.set_features(self.features)

    def add_memory(self) -> None:
        for region in self.ram.regions:
            self.connection.add_region(region, self.ram.fd)

    def start_queue(self, queue_index: int) -> None:
        queue, connection = self.queues[queue_index], self.connection
        driver = queue.driver
        connection.set_vring_num(queue_index, driver.queue_size)
        connection.set_vring_base(queue_index, driver.used_idx)
        self.say_address(queue_index)
        connection.set_vring_call(queue_index, queue.call_fd)
        connection._set_vring_fd(14, queue_index, queue.err_fd)  # type: ignore[arg-type]  # SET_VRING_ERR
        connection.set_vring_kick(queue_index, queue.kick_fd)
        connection.set_vring_enable(queue_index, True)

    def say_address(self, queue_index: int, *, is_logged: bool = False) -> None:
        """Where a ring lies, and whether writes to its used ring are to be marked in the dirty log."""
        driver = self.queues[queue_index].driver
        self.connection.set_vring_address(
            VringAddress(
                queue_index,
                VRING_F_LOG if is_logged else 0,
                driver.desc_gpa + UVA_OFFSET,
                driver.used_gpa + UVA_OFFSET,
                driver.avail_gpa + UVA_OFFSET,
                driver.used_gpa if is_logged else 0,
            )
        )

    def set_up(self) -> "RawFrontend":
        self.negotiate()
        self.add_memory()
        for queue_index in range(len(self.queues)):
            self.start_queue(queue_index)
        return self

    def close(self) -> None:
        self.connection.close()
        for queue in self.queues:
            queue.close()
        self.ram.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextlib.contextmanager
def raw_frontend(engine: Engine, **options: int) -> Iterator[RawFrontend]:
    """A raw front end that is set up and running."""
    with RawFrontend(engine, **options) as frontend:  # type: ignore[arg-type]
        yield frontend.set_up()


class Gate:
    """The FIFO that a GatedDisk waits for."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "gate"
        os.mkfifo(self.path)
        self._waiting_path = folder / "gate.waiting"
        self._waiting_path.touch()

    def wait_for_requests(self, count: int) -> None:
        """Wait until so many requests, since the beginning, were begun."""
        eventually(lambda: self._waiting_path.stat().st_size >= count, f"{count} requests at the gate")

    @property
    def begun_count(self) -> int:
        """How often a request came to the gate, since the beginning."""
        return self._waiting_path.stat().st_size

    def open(self) -> None:
        """Wait until a request is being carried out, and let it, and all that wait beside it, go on."""
        os.close(os.open(self.path, os.O_WRONLY))

    @contextlib.contextmanager
    def held_open(self) -> Iterator[None]:
        """Nobody waits in this block."""
        fd = os.open(self.path, os.O_RDWR)
        try:
            yield
        finally:
            os.close(fd)

    def options(self, size_bytes: int = 1 << 20) -> list[str]:
        return [
            "--backend=gated_disk:GatedDisk",
            f"--backend-arg=size_bytes={size_bytes}",
            f"--backend-arg=gate={self.path}",
            f"--sandbox-allow={self.path.parent}",
        ]
