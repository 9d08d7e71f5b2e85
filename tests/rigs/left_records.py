"""Records in shared memory that killed engines have left: removed behind each file of tests.

An engine that is killed leaves what the next one goes on with, and most tests that kill one start no other.
A later test whose image or process has the number of an earlier one's would find that.
"""

from collections.abc import Collection
from pathlib import Path

import msgspec

from ringblk.engine.drives.list_record import ListRecord
from ringblk.engine.drives.names import record_prefix
from ringblk.engine.drives.record import socket_digest
from ringblk.engine.drives.running_settings import DriveRecord
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.shm.segments.record_file import read_record, remove_record
from ringblk.shm.segments.shared_folder import shared_names

_drive_sockets: set[str | None] = set()
_control_sockets: set[str] = set()


def note_socket(path: Path) -> None:
    """A test has a drive listen there."""
    _drive_sockets.add(socket_digest(DriveConfig(socket_path=str(path))))


def note_control_socket(path: Path) -> None:
    """A test has an engine with a list of drives listen there."""
    _control_sockets.add(str(path))


def remove_left(trusted_users: Collection[int] = ()) -> None:
    """Remove all records of such drives and lists but those of engines that run."""
    for name in shared_names(record_prefix()) if _drive_sockets else ():
        if (record := read_record(name, trusted_users)) is not None:
            payload = msgspec.json.decode(record.payload, type=DriveRecord)
            if payload.socket in _drive_sockets:
                remove_record(name, trusted_users)
    for path in _control_sockets:
        record_of_list = ListRecord(path, forgets=True)
        record_of_list.begin()
        record_of_list.close()
