"""Records of killed engines are removed at the sockets that tests have noted, and nowhere else."""

import os
from pathlib import Path

import msgspec

from ringblk.engine.drives.names import own_record_prefix, record_prefix
from ringblk.engine.drives.record import socket_digest
from ringblk.engine.drives.running_settings import DriveIdentity, DriveRecord
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.shm.segments.record_file import RecordFile, remove_record
from ringblk.shm.segments.shared_folder import shared_names
from tests.rigs.left_records import note_socket, remove_left


def record_at(socket_path: Path) -> RecordFile:
    record = DriveRecord(
        pid=os.getpid(),
        written_ns=1,
        drive=DriveIdentity(kind="image"),
        socket=socket_digest(DriveConfig(socket_path=str(socket_path))),
    )
    return RecordFile.create(own_record_prefix("0" * 16, os.getpid()), msgspec.json.encode(record))


def test_what_is_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    noted, held, of_others = (record_at(tmp_path / name) for name in ("noted", "held", "others"))
    for name in ("noted", "held"):
        note_socket(tmp_path / name)
    for left in (noted, of_others):
        left.close(keep=True)
    try:
        remove_left()
        left_names = set(shared_names(record_prefix()))
        assert {noted.name, held.name, of_others.name} & left_names == {held.name, of_others.name}
    finally:
        held.close(keep=False)
        remove_record(of_others.name)
