"""Records of drives: what a record must hold fits, and what others do in their folder leaves it alone."""

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ringblk.engine.drives import names
from ringblk.engine.drives import record as drive_record
from ringblk.engine.drives.record import RecordKeeper, clear_records, records_of_process, socket_digest
from ringblk.engine.drives.running_settings import (
    DriveIdentity,
    DriveRecord,
    RunningSettings,
)
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.engine.options.rate_limiter_config import RATE_OF_BUCKET
from ringblk.shm.platform.process_table import began_ns
from ringblk.shm.rates.bucket_settings import BucketSettings
from ringblk.shm.segments.shared_folder import FOLDER, shared_names
from ringblk.shm.segments.two_slots import MAX_PAYLOAD_BYTES
from tests.rigs.child_process import ends_with_tests
from tests.rigs.engine_rig import DEADLINE_S, NOBODY, PROGRAM, environment, run_program

DISK_BYTES = 1 << 20
MOST = (1 << 64) - 1
LONG_NAME = "x" * 240


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """A folder whose path is longer than a record."""
    folder = tmp_path.joinpath(*[LONG_NAME] * 9)
    folder.mkdir(parents=True)
    return folder


def record_of(number: int, **fields: object) -> DriveRecord:
    drive = DriveIdentity(kind="image", device=MOST, inode=number, generation=MOST)
    return msgspec.structs.replace(DriveRecord(pid=1 << 22, written_ns=number, drive=drive), **fields)


def test_all_that_can_be_set_at_once_fits_a_record(deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(deep)
    bucket = BucketSettings(tokens=MOST, period_ms=MOST, burst=MOST, one_time_burst=MOST)
    record = record_of(
        MOST,
        socket=socket_digest(DriveConfig(socket_path="s")),
        is_read_only=True,
        capacity_bytes=MOST,
        rate_group="g" * 100,
        driver_writeback=False,
        settings=RunningSettings(
            limits=dict.fromkeys(RATE_OF_BUCKET, bucket),
            cache="writethrough",
            workers=64,
            is_paused=True,
            size_bytes=MOST,
            is_root_device=False,
            partuuid='"' * 64,
        ),
    )
    assert len(msgspec.json.encode(record)) <= MAX_PAYLOAD_BYTES


@pytest.mark.parametrize("partuuid", ["x" * 65, "", "one two", "one\n", "é"])
def test_what_is_no_partition_id_is_refused(image: Path, partuuid: str) -> None:
    done = run_program("--fd=0", f"--blk-file={image}", f"--partuuid={partuuid}")
    assert (done.returncode, "--partuuid" in done.stderr) == (2, True), done.stderr


def first_line(folder: Path, *options: str) -> str:
    """Start an engine there and end it; what it says of itself."""
    process = subprocess.Popen(
        ends_with_tests([PROGRAM, *options]), cwd=folder, env=environment(), stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    with process.stderr as log:
        line = next((line for line in log if b"sandbox" in line), b"").decode()
        process.terminate()
        assert process.wait(DEADLINE_S) == 0, line + log.read().decode()
    return line


def test_an_engine_listens_far_down(image: Path, deep: Path) -> None:
    """Its socket's path is short, as bind(2) wants it, and the folder's is not."""
    assert "sandbox" in first_line(deep, "--socket-path=s", f"--blk-file={image}", "--workers=1")


def test_an_engine_listens_at_a_name_that_is_not_utf_8(image: Path, tmp_path: Path) -> None:
    options = [f"--blk-file={image}", "--workers=1"]
    assert "sandbox" in first_line(tmp_path, os.fsdecode(b"--socket-path=s\xff"), *options)


def test_an_argument_of_a_backend_need_not_be_utf_8(tmp_path: Path) -> None:
    options = ["--backend=flush_noting_disk:FlushNotingDisk", f"--backend-arg=size_bytes={DISK_BYTES}"]
    path = os.fsdecode(b"--backend-arg=path=d\xff")
    assert "sandbox" in first_line(tmp_path, "--socket-path=s", *options, path, "--workers=1")


@pytest.fixture
def prefix(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What records of this test's drives are named by, and no others."""
    name = f"ringblk-test-{uuid.uuid4().hex}-"
    monkeypatch.setattr(names, "RECORD_PREFIX", name)
    yield name
    for left in shared_names(name):
        (Path(FOLDER) / left).unlink()


def leave_records(count: int) -> None:
    for number in range(count):
        settings = RunningSettings(workers=2)
        RecordKeeper(record_of(number, settings=settings)).close(goes_on=True)


def test_the_oldest_of_very_many_records_go(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive_record, "MAX_LEFT", 3)
    leave_records(5)
    clear_records()
    found = [each for name in shared_names(prefix) if (each := drive_record._read(name)) is not None]
    assert sorted(each.record.written_ns for each in found) == [2, 3, 4]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_another_users_files_push_no_record_out(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive_record, "MAX_LEFT", 3)
    leave_records(3)
    for number in range(5):
        path = Path(FOLDER) / f"{prefix}stranger-{number}"
        path.write_bytes(b"anything")
        os.chown(path, NOBODY, -1)
    clear_records()
    assert len(shared_names(prefix)) == 3 + 5


def test_a_record_of_who_had_the_process_id_before_is_not_of_who_has_it() -> None:
    pid = os.getpid()
    written = [began_ns(pid) - 1_000_000_000, drive_record.now_ns()]
    records = [
        msgspec.structs.replace(record_of(number), pid=pid, written_ns=written_ns)
        for number, written_ns in enumerate(written)
    ]
    keepers = [RecordKeeper(record) for record in records]
    try:
        assert [found.record for found in records_of_process(pid)] == records[1:]
    finally:
        for keeper in keepers:
            keeper.close(goes_on=False)


def test_a_process_began_before_now_and_after_the_one_before_it() -> None:
    before = drive_record.now_ns()
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            began = began_ns(process.pid)
            tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
            assert before - tick_ns <= began <= drive_record.now_ns()
        finally:
            process.kill()
    assert began_ns(process.pid) == 0
