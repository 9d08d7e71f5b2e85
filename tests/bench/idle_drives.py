"""What idle drives cost: the time of a PUT beside them, and the speed of a busy drive among them.

- A round of PUT adds a drive to an engine with so many, and takes the time from the request to the moment at
  which its socket accepts. It takes turns with a new qemu-storage-daemon beside the same engine.
- A round of load reads from a drive of an engine that has no other, and from one of the engine with so many
  idle ones, for a while each, the first of them in turn. What counts is the ratio within a round.
"""

import argparse
import itertools
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from ringblk.engine.frontend.frontend import Frontend
from ringblk.engine.load.generator import generate_load
from ringblk.engine.load.load import Load
from tests.bench.fleets import Fleet, FleetSpec
from tests.bench.images import prepare_image
from tests.rigs.control_client import ControlClient

_IMAGE_BYTES = 64 << 20
_LOAD = Load(depth=32)
_LOOK_S = 0.0002
_GUARD_S = 60.0


class Results(msgspec.Struct):
    """All rounds."""

    drive_count: int
    open_files: int
    """Of the control plane, with nobody connected."""
    start_s: float
    put_ms: list[float] = []
    daemon_ms: list[float] = []
    ratios: list[float] = []
    """Of the busy drive among idle ones to the one alone."""
    alone_kiops: list[float] = []
    among_kiops: list[float] = []


def _engine(settings: dict[str, object], control: Path) -> FleetSpec:
    def commands(sockets: Sequence[Path], images: Sequence[Path]) -> list[list[str]]:
        drives = {
            f"drive-{index}": {"socket_path": str(path), "blk_file": str(image), **settings}
            for index, (path, image) in enumerate(zip(sockets, images, strict=True))
        }
        config = control.with_suffix(".json")
        config.write_bytes(msgspec.json.encode({"control": str(control), "drives": drives}))
        return [[str(Path(sys.executable).parent / "vhost-user-ringblk"), f"--config={config}"]]

    return FleetSpec("one engine", "ringblk", commands)


def _until_accepts(path: Path) -> None:
    given_up_s = time.monotonic() + _GUARD_S
    with socket.socket(socket.AF_UNIX) as end:
        while end.connect_ex(str(path)) != 0:
            assert time.monotonic() < given_up_s, f"nobody listens at {path}"
            time.sleep(_LOOK_S)


def put_ms(control: ControlClient, folder: Path, settings: dict[str, object], number: int) -> float:
    """Add a drive, and remove it again."""
    path, image = folder / f"put-{number}.sock", folder / f"put-{number}.img"
    image.touch()
    os.truncate(image, _IMAGE_BYTES)
    wanted = {"socket_path": str(path), "blk_file": str(image), **settings}
    begun_s = time.perf_counter()
    status, answer = control.ask("PUT", f"/drives/put-{number}", wanted)
    _until_accepts(path)
    took_ms = 1000 * (time.perf_counter() - begun_s)
    assert status == 201, answer
    control.ask_raw("DELETE", f"/drives/put-{number}")
    return took_ms


def daemon_ms(folder: Path, number: int) -> float:
    """Start a qemu-storage-daemon with one export, and end it."""
    path, image = folder / f"peer-{number}.sock", folder / f"peer-{number}.img"
    image.touch()
    os.truncate(image, _IMAGE_BYTES)
    export = f"vhost-user-blk,id=e,node-name=n,writable=on,addr.type=unix,addr.path={path}"
    begun_s = time.perf_counter()
    peer = subprocess.Popen(
        ["qemu-storage-daemon", "--blockdev", f"driver=file,node-name=n,filename={image}", "--export", export]
    )
    try:
        _until_accepts(path)
        return 1000 * (time.perf_counter() - begun_s)
    finally:
        peer.kill()
        peer.wait()


def _kiops(path: Path, seconds: float, pids: Callable[[], list[int]]) -> float:
    with Frontend(str(path), memory_size_bytes=_LOAD.memory_bytes) as disk:
        return generate_load(disk, _LOAD, seconds=seconds, backend_pids=pids).iops / 1000


def _spread(values: Sequence[float], unit: str) -> str:
    if not values:
        return "none"
    low, middle, high = (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    )
    return f"{middle:.3f} {unit} ({min(values):.3f} to {max(values):.3f}, half {low:.3f} to {high:.3f})"


def _measure(arguments: argparse.Namespace, folder: Path) -> Results:
    settings: dict[str, object] = {"workers": arguments.workers}
    images = [folder / f"{index}.img" for index in range(arguments.drives)]
    for image in images[1:]:
        image.touch()
        os.truncate(image, _IMAGE_BYTES)
    prepare_image(images[0], _IMAGE_BYTES)  # written: a hole is read in half the time
    with ExitStack() as stack:
        alone = stack.enter_context(Fleet(_engine(settings, folder / "alone"), images[:1]))
        images[0] = folder / "busy.img"
        prepare_image(images[0], _IMAGE_BYTES)
        among = stack.enter_context(Fleet(_engine(settings, folder / "among"), images))
        supervisor_pid = among.main_pids[0]
        time.sleep(1.0)
        results = Results(
            arguments.drives, len(os.listdir(f"/proc/{supervisor_pid}/fd")), round(among.start_s, 3)
        )
        control = ControlClient(folder / "among")
        has_peer = shutil.which("qemu-storage-daemon") is not None
        for number in range(arguments.puts):
            results.put_ms.append(put_ms(control, folder, settings, number))
            if has_peer:
                results.daemon_ms.append(daemon_ms(folder, number))
        both = [(alone, results.alone_kiops), (among, results.among_kiops)]
        for number in range(arguments.rounds):
            for fleet, found in itertools.islice(itertools.cycle(both), number % 2, number % 2 + 2):
                pid = fleet.main_pids[0]
                found.append(_kiops(fleet.sockets[0], arguments.seconds, lambda pid=pid: [pid]))  # type: ignore[misc]
        pairs = zip(results.among_kiops, results.alone_kiops, strict=True)
        results.ratios = [one / other for one, other in pairs]
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="tests.bench.idle_drives", description=__doc__)
    add = parser.add_argument
    add("--drives", type=int, default=100, help="of the engine, all but one idle (%(default)s)")
    add("--workers", type=int, default=4, help="of each drive at most (%(default)s)")
    add("--puts", type=int, default=20, help="rounds of PUT (%(default)s)")
    add("--rounds", type=int, default=10, help="rounds of load (%(default)s)")
    add("--seconds", type=float, default=1.0, help="of each load (%(default)s)")
    add("--folder", type=Path, default=Path("/dev/shm"), help="where the images lie (%(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="ringblk-bench-") as folder:
        results = _measure(arguments, Path(folder))
    print(
        f"{results.drive_count} drives up in {results.start_s} s, {results.open_files} files open"
        f" ({results.open_files / results.drive_count:.1f} a drive)"
    )
    print("PUT until the socket accepts:", _spread(results.put_ms, "ms"))
    print("a new qemu-storage-daemon:   ", _spread(results.daemon_ms, "ms"))
    print("busy among idle to alone:    ", _spread(results.ratios, "times"))
    print("  alone:", _spread(results.alone_kiops, "kIOPS"))
    print("  among:", _spread(results.among_kiops, "kIOPS"))
    print(msgspec.json.encode(results).decode())


if __name__ == "__main__":
    main()
