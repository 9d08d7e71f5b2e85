"""What has changed of an image since a point: each block that has is told, whatever dies.

The guarantee: of a block that reads otherwise than at a point, the map since that point has the bit. It may
have others. It holds after kills of any process at any instruction, and after power failures.
"""

import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from ringblk.crashes import Recording
from ringblk.engine.crashes.folder_copy import remove_folder
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.open_storage import OpenTracked
from ringblk.workers.backends.tracked import TrackedBackend
from ringblk.workers.changes.tracker_folder import CHANGES, REGIONS, START, TrackerFolder
from ringblk.workers.changes.tracker_form import OPEN, RegionsHeader, TrackerDamaged
from tests.rigs.recorded_folder import Record

MIB = 1 << 20
SIZE_BYTES = 300 * MIB + 512
"""Five regions, the last of which is one in part."""
PLACES = [0, 1, 2, 40, 16383, 16384, 16385, 40000, 76799, 76800]
"""Blocks that are written to: at borders of regions, the last one of 512 bytes."""


def is_set(bitmap: bytes, block: int) -> bool:
    return bool(bitmap[block // 8] >> block % 8 & 1)


def contents_of(image: Path) -> dict[int, bytes]:
    with image.open("rb") as file:
        return {block: os.pread(file.fileno(), 4096, block * 4096) for block in PLACES}


def opened(image: Path, folder: Path) -> TrackedBackend:
    backend = TrackedBackend(image, folder, direct="off")
    backend.image_lock().lock()
    return backend


def another(backend: TrackedBackend) -> TrackedBackend:
    """The same in another process, as good as."""
    found, fds = backend.hand_over()
    assert isinstance(found, OpenTracked)
    return TrackedBackend.take(found, [os.dup(fd) for fd in fds])


def let_go(*backends: TrackedBackend) -> None:
    """As if their processes were killed."""
    for backend in backends:
        for fd in backend.fds[1:]:  # the image's is closed with its backend
            os.close(fd)


def write(backend: TrackedBackend, block: int, content: bytes, way: str) -> None:
    length = min(len(content), SIZE_BYTES - block * 4096)
    if way == "zero":
        backend.write_zeroes(block * 4096, length)
    elif way == "discard":
        backend.discard(block * 4096, length)
    else:
        backend.write_at(block * 4096, content[:length], durable=way == "write durably")


def check(folder: Path, image: Path, at_points: dict[str, dict[int, bytes]]) -> dict[str, int]:
    """Each point that is there; how many blocks the map since it has."""
    now = contents_of(image)
    tracker = TrackerFolder(str(folder))
    counts = {}
    for name in [START, *(point.name for point in tracker.points())]:
        bitmap = tracker.changed_since(name)
        for block, content in now.items():
            assert is_set(bitmap, block) or content == at_points[name][block], (name, block)
        counts[name] = int.from_bytes(bitmap, "little").bit_count()
    tracker.close()
    return counts


def forget_boot(folder: Path) -> None:
    """What is found there is of another boot."""
    with (folder / REGIONS).open("r+b") as file:
        header = RegionsHeader.decode(file.read(512))
        if header.state == OPEN:
            os.pwrite(file.fileno(), _with_boot(header, os.urandom(16)), 0)


def _with_boot(header: RegionsHeader, boot_id: bytes) -> bytes:
    import msgspec

    return msgspec.structs.replace(header, boot_id=boot_id).encode()


class TrackingMachine(RuleBasedStateMachine):
    """Writes by several processes, points, clean ends and kills of everybody."""

    @initialize(seed=st.integers(0, 99))
    def make(self, seed: int) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="ringblk-test-", dir="/dev/shm"))
        self.image, self.folder = self.home / "image", self.home / "changes"
        with self.image.open("wb") as file:
            file.truncate(SIZE_BYTES)
        self.random = random.Random(seed)
        self.at_points = {START: contents_of(self.image)}
        self.count = 0
        self.open()

    def open(self) -> None:
        self.backend = opened(self.image, self.folder)
        self.other = another(self.backend)

    @rule(block=st.sampled_from(PLACES), way=st.sampled_from(["write", "write durably", "zero", "discard"]))
    def write(self, block: int, way: str) -> None:
        backend = self.random.choice([self.backend, self.other])
        write(backend, block, self.random.randbytes(4096), way)

    @rule()
    def set_point(self) -> None:
        self.count += 1
        name = f"p{self.count}"
        tracker = TrackerFolder(str(self.folder))
        tracker.set_point(name)
        tracker.close()
        self.at_points[name] = contents_of(self.image)

    @rule(chance=st.randoms())
    def remove_point(self, chance: random.Random) -> None:
        """Cut off before its file is gone, now and then: the points that are left tell what they told."""
        names = [name for name in self.at_points if name != START]
        if not names:
            return
        name = chance.choice(names)
        tracker = TrackerFolder(str(self.folder))
        before = {each: tracker.changed_since(each) for each in self.at_points if each != name}
        number = next(point.number for point in tracker.points() if point.name == name)
        file = self.folder / f"point-{number:08d}"
        content = file.read_bytes()
        tracker.remove_point(name)
        del self.at_points[name]
        assert {each: tracker.changed_since(each) for each in before} == before
        if chance.random() < 0.5 and list(before)[-1] != START and number < tracker.points()[-1].number:
            file.write_bytes(content)
            assert {each: tracker.changed_since(each) for each in before} == before
            assert [START, *(point.name for point in tracker.points())] == list(self.at_points)
            file.unlink()
        tracker.close()

    @rule()
    def look(self) -> None:
        counts = check(self.folder, self.image, self.at_points)
        assert list(counts) == list(self.at_points)

    @rule()
    def kill_everybody(self) -> None:
        let_go(self.backend, self.other)
        del self.backend, self.other  # and with them their mappings
        check(self.folder, self.image, self.at_points)
        self.open()

    @rule()
    def end_cleanly_and_set_a_point(self) -> None:
        let_go(self.other)
        del self.other
        self.backend.close()
        self.set_point()
        self.open()

    def teardown(self) -> None:
        if hasattr(self, "backend"):
            self.look()
            let_go(self.backend, self.other)
            shutil.rmtree(self.home)


TestTracking = TrackingMachine.TestCase
TestTracking.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


@pytest.fixture
def image(shm_path: Path) -> Path:
    path = shm_path / "image"
    with path.open("wb") as file:
        file.truncate(SIZE_BYTES)
    return path


def test_nothing_more_is_told_than_what_was_written(image: Path) -> None:
    folder = image.with_name("changes")
    backend = opened(image, folder)
    write(backend, 1, b"a" * 4096, "write")
    tracker = TrackerFolder(str(folder))
    tracker.set_point("one")
    write(backend, 16384, b"b" * 4096, "write")
    at_points = {START: dict.fromkeys(PLACES, bytes(4096)), "one": contents_of(image)}
    at_points[START][76800] = bytes(512)
    at_points["one"][16384] = bytes(4096)
    assert check(folder, image, at_points) == {START: 2, "one": 1}
    backend.close()
    assert check(folder, image, at_points) == {START: 2, "one": 1}
    backend = opened(image, folder)
    assert check(folder, image, at_points) == {START: 2, "one": 1}
    let_go(backend)
    del backend
    forget_boot(folder)
    assert check(folder, image, at_points) == {START: 2, "one": 1}  # no region was written to in this session


def test_an_image_that_others_wrote_to_counts_as_changed(image: Path) -> None:
    folder = image.with_name("changes")
    opened(image, folder).close()
    with image.open("r+b") as file:
        file.write(b"another program")
    backend = opened(image, folder)
    tracker = TrackerFolder(str(folder))
    assert int.from_bytes(tracker.changed_since(START), "little").bit_count() >= SIZE_BYTES // 4096
    tracker.close()
    backend.close()


def test_what_is_refused(image: Path) -> None:
    folder = image.with_name("changes")
    backend = opened(image, folder)
    other = image.with_name("other")
    with other.open("wb") as file:
        file.truncate(MIB)
    with pytest.raises(BackendError, match="tracks a drive of 314573312 bytes, and this one has 1048576"):
        TrackedBackend(other, folder)
    with other.open("wb") as file:
        file.truncate(SIZE_BYTES)
    with pytest.raises(BackendError, match="is served already"):
        opened(other, folder)
    backend.close()
    second = image.with_name("second")
    opened(other, second).close()
    shutil.copy(second / CHANGES, folder / CHANGES)
    with pytest.raises(BackendError, match="its changes are those of another drive"):
        TrackedBackend(image, folder)
    (folder / CHANGES).unlink()
    with pytest.raises(BackendError, match="has lost its changes"):
        TrackedBackend(image, folder)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "write durably", "zero", "point", "flush", "restart"]),
        st.sampled_from(PLACES),
    ),
    min_size=1,
    max_size=16,
)


@given(STEPS, st.integers(0, 1 << 16))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_after_a_power_failure_each_change_is_told(
    recorded_folder: Record, steps: list[tuple[str, int]], seed: int
) -> None:
    """The power fails under a drive whose changes are tracked: no change is missing."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="ringblk-test-") as name:
        home = Path(name) / "home"
        home.mkdir()
        image, folder = home / "image", home / "changes"
        with image.open("wb") as file:
            file.truncate(SIZE_BYTES)
        at_points = {START: contents_of(image)}
        with recorded_folder(home) as recorded:
            backend = opened(image, folder)
            for kind, block in steps:
                match kind:
                    case "flush":
                        backend.flush()
                    case "restart":
                        backend.close()
                        backend = opened(image, folder)
                    case "point":
                        tracker = TrackerFolder(str(folder))
                        at_points[f"p{len(at_points)}"] = contents_of(image)
                        tracker.set_point(f"p{len(at_points) - 1}")
                        tracker.close()
                        recorded.mark(f"p{len(at_points) - 1}")
                    case _:
                        write(backend, block, chance.randbytes(4096), kind)
            let_go(backend)
            del backend  # and with it its mapping
        for state in Recording.read(recorded.record).states(12, seed):
            after = Path(name) / "after"
            state.make(after)
            if (after / "changes" / REGIONS).exists():
                forget_boot(after / "changes")
                counts = check(after / "changes", after / "image", at_points)
                assert {mark.text for mark in state.marks} <= counts.keys()
                again = opened(after / "image", after / "changes")
                check(after / "changes", after / "image", at_points)
                again.close()
            else:
                assert contents_of(after / "image") == at_points[START]
            remove_folder(after)
        remove_folder(recorded.record)


def test_what_no_point_is_removed_is_told(image: Path) -> None:
    folder = image.with_name("changes")
    opened(image, folder).close()
    tracker = TrackerFolder(str(folder))
    tracker.set_point("one")
    with pytest.raises(TrackerDamaged, match="has no point two; it has start, one"):
        tracker.remove_point("two")
    with pytest.raises(TrackerDamaged, match="from its start on"):
        tracker.remove_point(START)
    tracker.set_point("two")
    (folder / "point-00000001").unlink()
    with pytest.raises(TrackerDamaged, match="has lost a point"):
        tracker.points()
    tracker.close()
