"""Records in shared memory that outlive their writers, and whom they are believed of."""

import fcntl
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringblk.shm.segments.record_file import RecordFile, read_record, remove_empty_records, remove_record
from ringblk.shm.segments.shared_folder import FOLDER, shared_names
from ringblk.shm.segments.two_slots import MAX_PAYLOAD_BYTES, RECORD_BYTES, record_bytes_for
from tests.rigs.engine_rig import NOBODY


@pytest.fixture
def prefix() -> Iterator[str]:
    name = f"ringblk-test-{uuid.uuid4().hex}-"
    yield name
    for left in shared_names(name):
        (Path(FOLDER) / left).unlink()


def test_a_record_outlives_its_writer(prefix: str) -> None:
    record = RecordFile.create(prefix, b"one")
    assert read_record(record.name) == (b"one", True, os.geteuid())
    record.write(b"two")
    assert read_record(record.name) == (b"two", True, os.geteuid())
    record.close(keep=True)
    assert read_record(record.name) == (b"two", False, os.geteuid())
    remove_record(record.name)
    assert shared_names(prefix) == []


def test_a_record_is_empty_or_whole_when_its_writer_is_killed_making_it(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call that changes it, seen from outside: what is empty is removed by whoever comes next."""
    seen = []

    def note(fd: int, data: bytes, offset_bytes: int) -> int:
        seen.append((os.fstat(fd).st_size, read_record(f"{prefix}0")))
        written_bytes = pwrite(fd, data, offset_bytes)
        seen.append((os.fstat(fd).st_size, read_record(f"{prefix}0")))
        return written_bytes

    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", note)
    RecordFile.create(prefix, b"one").close(keep=False)
    assert seen == [(0, None), (RECORD_BYTES, (b"one", True, os.geteuid()))]


def test_a_record_has_room_for_what_it_was_made_for(prefix: str) -> None:
    for size_bytes in (0, MAX_PAYLOAD_BYTES, MAX_PAYLOAD_BYTES + 1, 65536):
        payload = os.urandom(size_bytes)
        record = RecordFile.create(prefix, payload, record_bytes=record_bytes_for(size_bytes))
        record.write(payload[::-1])
        found = read_record(record.name)
        assert found is not None
        assert found.payload == payload[::-1]
        record.close(keep=False)
    with pytest.raises(ValueError, match="at most"):
        RecordFile.create(prefix, bytes(MAX_PAYLOAD_BYTES + 1))


def test_a_record_that_is_let_go_of_is_removed(prefix: str) -> None:
    RecordFile.create(prefix, b"one").close(keep=False)
    assert shared_names(prefix) == []


def test_a_living_writers_record_stays(prefix: str) -> None:
    record = RecordFile.create(prefix, b"one")
    remove_record(record.name)
    remove_empty_records(prefix)
    assert shared_names(prefix) == [record.name]
    os.ftruncate(record.fileno(), 0)  # let go of by one who may not remove it
    remove_empty_records(prefix)
    assert shared_names(prefix) == [record.name]
    os.close(record.fileno())
    remove_empty_records(prefix)
    assert shared_names(prefix) == []


def test_a_name_that_is_taken_is_left_alone(prefix: str) -> None:
    taken = Path(FOLDER) / f"{prefix}0"
    taken.write_text("a stranger's")
    record = RecordFile.create(prefix, b"one")
    assert record.name == f"{prefix}1"
    assert taken.read_text() == "a stranger's"
    record.close(keep=False)


def test_a_payload_that_cannot_be_written_leaves_the_former_one(prefix: str) -> None:
    record = RecordFile.create(prefix, b"one")
    with pytest.raises(ValueError, match="at most"):
        record.write(bytes(1 << 20))
    assert read_record(record.name) == (b"one", True, os.geteuid())
    record.close(keep=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_a_record_of_another_user_is_not_believed(prefix: str) -> None:
    record = RecordFile.create(prefix, b"anything")
    os.fchown(record.fileno(), NOBODY, -1)
    assert read_record(record.name) is None
    record.close(keep=True)
    remove_record(record.name)
    assert shared_names(prefix) == [record.name]
    assert read_record(record.name, [NOBODY]) == (b"anything", False, NOBODY)
    remove_record(record.name, [NOBODY])
    assert shared_names(prefix) == []


def test_what_is_no_file_holds_nobody_up(prefix: str) -> None:
    os.mkfifo(Path(FOLDER) / f"{prefix}fifo")
    (Path(FOLDER) / f"{prefix}link").symlink_to("/etc/passwd")
    leased = RecordFile.create(prefix, b"held by a lease")
    former = signal.signal(signal.SIGIO, signal.SIG_IGN)  # which tells the holder that somebody came
    fcntl.fcntl(leased.fileno(), fcntl.F_SETLEASE, fcntl.F_WRLCK)
    for name in shared_names(prefix):
        assert read_record(name) is None
        remove_record(name)
    assert len(shared_names(prefix)) == 3
    signal.signal(signal.SIGIO, former)
    leased.close(keep=False)
