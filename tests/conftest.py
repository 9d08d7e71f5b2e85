"""Files, file systems and devices to keep a drive on."""

import gc
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from ringblk.engine.crashes.fixture import recorded_folder as recorded_folder
from ringblk.shm.platform.form import LINUX
from tests.rigs.engine_rig import NOBODY
from tests.rigs.left_records import remove_left
from tests.rigs.longest_files import LONGEST
from tests.rigs.portable_tests import LACKING, is_left_out, what_is_lacking

ROOT = Path(__file__).resolve().parent

# Who is started by nohup, or by a shell's &, ignores a signal; the suite runs the same under those.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, object, object]:
    """Let what a test logged be no text, such as the name of a file: processes send each other UTF-8."""
    return _printable((yield))


def _printable(data: object) -> object:
    """The same data with each surrogate escaped."""
    if isinstance(data, str):
        return data.encode(errors="backslashreplace").decode()
    if isinstance(data, dict):
        return {name: _printable(value) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return type(data)(map(_printable, data))
    return data


def pytest_report_header() -> list[str]:
    """What a build of the portable forms lacks."""
    return [] if LINUX else [f"left out: {what} ({', '.join(about)})" for what, about in LACKING.items()]


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave files out that are about what a build of the portable forms lacks."""
    return None if LINUX or not is_left_out(collection_path) else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files begin first.

    On a build of the portable forms, what it lacks is not tested.
    """
    if not LINUX:
        for item in items:
            if what := what_is_lacking(item):
                item.add_marker(pytest.mark.skip(reason=f"the portable form has {what}"))
    places = {ROOT / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))


def pytest_collection_finish() -> None:
    """No test that collects garbage looks through all of the suite: what was collected lives to the end."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Behind each file nothing stays that killed engines have left for others."""
    if nextitem is None or nextitem.path != item.path:
        remove_left([NOBODY])


@pytest.fixture
def shm_path() -> Iterator[Path]:
    """A directory on a tmpfs."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="ringblk-test-") as directory:
        yield Path(directory)


@pytest.fixture
def everybodys_path() -> Iterator[Path]:
    """A directory that every user may use, as /tmp; pytest keeps its own from others."""
    with tempfile.TemporaryDirectory(prefix="ringblk-test-") as directory:
        path = Path(directory)
        path.chmod(0o1777)
        yield path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image of 1 MiB of zeroes."""
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    return path


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mount a file system: mount("tmpfs", "size=64k") gives its directory. Needs root."""
    points: list[Path] = []

    def mount_one(kind: str, options: str = "rw") -> Path:
        point = tmp_path / f"mount-{len(points)}"
        point.mkdir()
        command = ["mount", "-t", kind, "-o", options, kind, str(point)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"can't mount {kind}: {done.stderr.strip()}")
        points.append(point)
        return point

    yield mount_one
    for point in points:
        subprocess.run(["umount", str(point)], check=True)


@pytest.fixture
def loop_device(shm_path: Path) -> Iterator[Callable[[int, int], Path]]:
    """Make a loop device of so many bytes and with such logical blocks. Needs root and loop devices."""
    devices: list[str] = []

    def make(size_bytes: int, block_bytes: int) -> Path:
        if os.geteuid() != 0 or not Path("/dev/loop-control").exists() or not shutil.which("losetup"):
            pytest.skip("needs root, losetup and loop devices")
        image = shm_path / f"loop-{len(devices)}.img"
        with image.open("wb") as file:
            file.truncate(size_bytes)
        command = ["losetup", "--find", "--show", f"--sector-size={block_bytes}", str(image)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"can't set up a loop device: {done.stderr.strip()}")
        devices.append(done.stdout.strip())
        # A read-only flag of an earlier use outlives that use.
        subprocess.run(["blockdev", "--setrw", devices[-1]], check=True)
        return Path(devices[-1])

    yield make
    for device in devices:
        subprocess.run(["losetup", "--detach", device], check=True)
