"""What a guest pays for being movable, and for moving.

`log`: a load of reads at depth 32 with a dirty log switched on, and without, in turn on one engine: the
engine's processor time for a request, which other programs on the machine disturb less than its rate.

`switch`: the disk's part of a guest's downtime. A front end is connected to two back ends on one image. It
stops the queues of one, gives memory and queues to the other, and has a read done there. ringblk and
qemu-storage-daemon take turns. Nothing is in flight: qemu-storage-daemon 10.0 gives the base of a queue back
while requests are, and another back end on the same memory then gets in its way.

`guest` (if asked for): the whole of a guest's downtime, as QEMU tells it, with the one and with the other.
"""

import argparse
import contextlib
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from ringblk.engine.frontend.frontend import Frontend
from ringblk.engine.frontend.memory import FrontendMemory
from ringblk.engine.frontend.session import FrontendSession
from ringblk.engine.load.generator import generate_load
from ringblk.engine.load.load import Load
from ringblk.engine.vhost_user.codes import (
    F_LOG_ALL,
    F_PROTOCOL_FEATURES,
    VRING_F_LOG,
    FrontendRequest,
    ProtocolFeature,
)
from ringblk.engine.vhost_user.messages import LogDescription, VringAddress, encode_log
from ringblk.shm.memory.dirty_log import log_bytes
from tests.bench.backends import BackendSpec, RunningBackend, engine_spec, storage_daemon_specs
from tests.bench.move_guest import moving_guest
from tests.bench.processes import descendants

DEPTH = 32
BLOCK_BYTES = 4096
IMAGE_BYTES = 256 << 20
GUARD_S = 60.0
LOG_FREE = "driver=file,node-name=n0,"


class Cost(msgspec.Struct):
    """Two ways of the same, and the median of the ratios of runs side by side."""

    what: str
    unit: str
    ours: float
    other: float
    ratio: float


def _compare(what: str, unit: str, pairs: Sequence[tuple[float, float]]) -> Cost:
    ours, other = ([pair[index] for pair in pairs] for index in (0, 1))
    ratio = statistics.median(first / second for first, second in pairs)
    return Cost(what, unit, statistics.median(ours), statistics.median(other), round(ratio, 3))


def give_log(disk: Frontend) -> None:
    """A dirty log for all of the front end's memory."""
    session = disk._session
    connection = session.connection
    connection.negotiate_protocol_features(connection.protocol_features | ProtocolFeature.LOG_SHMFD)
    size_bytes = log_bytes(max(memory.region.gpa + memory.region.size_bytes for memory in session._memories))
    fd = os.memfd_create("dirty-log")
    try:
        os.truncate(fd, size_bytes)
        connection.command(FrontendRequest.SET_LOG_BASE, encode_log(LogDescription(size_bytes, 0)), (fd,))
    finally:
        os.close(fd)


def switch_log(disk: Frontend, *, is_logged: bool) -> None:
    """As QEMU does while the device runs: the features, then each ring."""
    connection = disk._session.connection
    features = disk._session.features | F_PROTOCOL_FEATURES
    connection.set_features(features | (F_LOG_ALL if is_logged else 0))
    for queue_index, queue in enumerate(disk.queues):
        ring = queue.virtqueue
        connection.set_vring_address(
            VringAddress(
                queue_index,
                VRING_F_LOG if is_logged else 0,
                FrontendMemory.uva(ring.desc_gpa),
                FrontendMemory.uva(ring.used_gpa),
                FrontendMemory.uva(ring.avail_gpa),
                ring.used_gpa if is_logged else 0,
            )
        )


def measure_log(image: Path, rounds: int, seconds: float) -> Cost:
    """Microseconds of processor time for a request with a log, and without."""
    load = Load(depth=DEPTH, block_bytes=BLOCK_BYTES)
    pairs = []
    with (
        RunningBackend(engine_spec(), image) as backend,
        Frontend(backend.socket_path, memory_size_bytes=load.memory_bytes) as disk,
    ):
        give_log(disk)
        for round_index in range(rounds):
            took_us = {}
            for is_logged in (True, False) if round_index % 2 else (False, True):
                switch_log(disk, is_logged=is_logged)
                figures = generate_load(
                    disk, load, seconds=seconds, backend_pids=lambda: [backend.pid, *descendants(backend.pid)]
                )
                took_us[is_logged] = figures.backend_us_per_io
            pairs.append((took_us[True], took_us[False]))
    return _compare("a request with a dirty log, and without", "us", pairs)


def switch_ms(disk: Frontend, target: str) -> float:
    """Milliseconds from the stop of the queues at one back end to the first completion at another."""
    source = disk._session
    arriving = FrontendSession(target, indirect=source.indirect, event_idx=source.event_idx)
    arriving.features = source.features
    arriving.negotiate(disk.num_queues)
    arriving._memories, arriving._queues = source._memories, source._queues
    disk.read(0, BLOCK_BYTES)
    stopped_s = time.monotonic()
    source.stop()
    disk._session = arriving
    arriving._send_memories()
    arriving._start_queues()
    for queue in arriving._queues:
        queue.kick(always=True)
    disk.read(0, BLOCK_BYTES)
    took_s = time.monotonic() - stopped_s
    source.disconnect()
    return 1000 * took_s


@contextlib.contextmanager
def two_backends(spec: BackendSpec, image: Path) -> Iterator[Callable[[], float]]:
    """What moves a front end from one of two such back ends to the other, and takes the time."""
    with RunningBackend(spec, image) as first, RunningBackend(spec, image) as second:
        sockets = [second.socket_path, first.socket_path]
        with Frontend(first.socket_path, request_timeout_s=GUARD_S) as disk:

            def move() -> float:
                sockets.reverse()
                return switch_ms(disk, sockets[1])

            yield move


def storage_daemon_spec() -> BackendSpec:
    """qemu-storage-daemon that lets another have the image open, too. Raises `SystemExit` without one."""
    specs = storage_daemon_specs(["threads"], None, roaming=True)
    if not specs:
        raise SystemExit("bench_move: qemu-storage-daemon is not installed; --what=log does without")
    command = [part.replace(LOG_FREE, f"{LOG_FREE}locking=off,") for part in specs[0].command]
    return BackendSpec("qsd", "qsd", command)


def measure_switch(image: Path, rounds: int) -> Cost:
    """Both in turn."""
    with (
        two_backends(engine_spec(["--lock=running"]), image) as ours,
        two_backends(storage_daemon_spec(), image) as other,
    ):
        ours(), other()  # what is done once is done
        pairs = [(ours(), other()) for _ in range(rounds)]
    return _compare("a switch, and qemu-storage-daemon's", "ms", pairs)


def measure_guest(folder: Path, image: Path, rounds: int) -> Cost:
    """Two guests that move by turns, each on an image of its own."""
    second = folder / "second.img"
    shutil.copyfile(image, second)
    with (
        moving_guest(engine_spec(["--lock=running"]), image, folder / "ours") as ours,
        moving_guest(storage_daemon_spec(), second, folder / "other") as other,
    ):
        ours(), other()  # what is done once is done
        pairs = [(ours(), other()) for _ in range(rounds)]
    return _compare("a guest's downtime, and with qemu-storage-daemon", "ms", pairs)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=2.0, help="of load in each run of `log`")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the image is")
    parser.add_argument("--what", default="log,switch", help="of log, switch and guest")
    arguments = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        image = Path(folder) / "move.img"
        image.write_bytes(os.urandom(1 << 20) * (IMAGE_BYTES >> 20))
        for what in arguments.what.split(","):
            if what == "log":
                found.append(measure_log(image, arguments.rounds, arguments.seconds))
            elif what == "guest":
                found.append(measure_guest(Path(folder), image, arguments.rounds))
            else:
                found.append(measure_switch(image, arguments.rounds))
            cost = found[-1]
            print(
                f"{cost.what:42} {cost.ours:9.2f} {cost.other:9.2f} {cost.unit}  x {cost.ratio:.3f}",
                flush=True,
            )
    print(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    main()
