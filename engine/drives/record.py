"""The record of a drive: found by an engine that begins, kept by one that runs, left by one that is to go on.

It holds what was set while the engine ran (`RunningSettings`) and what the driver chose for its write cache.
Every change is in it before the change is answered, so it is right whenever the engine is killed. A clean end
removes it, unless a front end is connected or a successor was announced: then the drive goes on.

A successor writes a record of its own with what it has taken over, and only then removes the former one.
"""

import contextlib
import logging
import os
import time
from collections.abc import Collection

import msgspec

from ringblk.engine.base.digest import short_digest
from ringblk.engine.drives.names import own_record_prefix, record_prefix, supervisor_of
from ringblk.engine.drives.running_settings import DriveIdentity, DriveRecord
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.shm.platform.process_table import began_ns
from ringblk.shm.segments.record_file import RecordFile, read_record, remove_empty_records, remove_record
from ringblk.shm.segments.shared_folder import shared_names
from ringblk.workers.backends.native import NativeBackend

MAX_LEFT = 4096
"""Records of engines that are gone which a user may have; beyond it the oldest are removed."""

_log = logging.getLogger(__name__)


class FoundRecord(msgspec.Struct, frozen=True):
    """A record that an engine has left, or still has."""

    name: str
    record: DriveRecord
    is_held: bool
    owner: int
    """The user whose it is."""

    def remove(self) -> None:
        """Remove it, if the engine that wrote it is gone."""
        remove_record(self.name, [self.owner])


def identify(config: DriveConfig, backend: NativeBackend) -> DriveIdentity:
    """What tells this drive from others."""
    storage = backend.identity()
    if storage is not None:
        return DriveIdentity(
            kind=storage.kind, device=storage.device, inode=storage.inode, generation=storage.generation
        )
    arguments = [f"{key}={value}" for key, value in sorted(config.backend_arg.items())]
    place = config.backend or config.uri or config.shared_dir or config.file_system or ""
    # A path among them may be any bytes.
    text = short_digest("\0".join([place, *arguments]).encode(errors="surrogateescape"))
    return DriveIdentity(kind="backend", backend=text, has_contents_elsewhere=backend.outlives_engine)


def find_predecessor(
    config: DriveConfig,
    drive: DriveIdentity,
    *,
    is_read_only: bool,
    trusted_users: Collection[int] = (),
) -> FoundRecord | None:
    """What was left of this drive by the engine before; the newest where several were.

    Call it when that engine is gone. A backend without an image, and an image that several engines may read,
    is the same drive only at the same socket. A record may be this process's user's, or one of
    `trusted_users`'.
    """
    found = []
    for name in shared_names(record_prefix(_key(drive))):
        each = _read(name, trusted_users)
        if each is None or each.is_held or each.record.drive != drive:
            continue
        shares = is_read_only or each.record.is_read_only or drive.kind == "backend"
        if not shares or each.record.socket == socket_digest(config):
            found.append(each)
    return max(found, key=lambda each: each.record.written_ns, default=None)


def records_of_process(pid: int, trusted_users: Collection[int] = ()) -> list[FoundRecord]:
    """The records of an engine's drives, by its supervisor's process id, the newest first.

    Where the number was used again, those of the engine that had it before are not among them.
    """
    began = began_ns(pid)
    of_process = [name for name in shared_names(record_prefix()) if supervisor_of(name) == pid]
    read = [each for name in of_process if (each := _read(name, trusted_users)) is not None]
    found = [each for each in read if each.record.pid == pid and each.record.written_ns >= began]
    return sorted(found, key=lambda each: each.record.written_ns, reverse=True)


def record_of_process(
    pid: int, trusted_users: Collection[int] = (), *, config: DriveConfig | None = None
) -> FoundRecord | None:
    """The record of an engine's drive at the socket that `config` names; of its only one in any case."""
    found = records_of_process(pid, trusted_users)
    if config is not None and (digest := socket_digest(config)) is not None:
        at_socket = [each for each in found if each.record.socket == digest]
        if at_socket or len({each.record.drive for each in found}) > 1:
            found = at_socket
    return found[0] if found else None


def socket_digest(config: DriveConfig) -> str | None:
    """What tells the socket's path from others, whatever folder the engine is started in.

    The path itself may be of any length, and need not be UTF-8: it may not fit a record.
    """
    if config.socket_path is None:
        return None
    path = os.fsencode(config.socket_path)
    with contextlib.suppress(OSError):  # the working directory is gone: who listens will say so
        path = os.path.realpath(path)
    return short_digest(path)


def clear_records() -> None:
    """Remove empty records, and the oldest where very many were left."""
    remove_empty_records(record_prefix())
    names = shared_names(record_prefix())
    if len(names) <= MAX_LEFT:
        return
    # Of our own user's: others may make as many as they like, and push nothing out.
    left = [each for name in names if (each := _read(name)) is not None and not each.is_held]
    left.sort(key=lambda each: each.record.written_ns, reverse=True)
    for each in left[MAX_LEFT:]:
        each.remove()


class RecordKeeper:
    """Keeps the record of an engine that runs."""

    def __init__(self, first: DriveRecord) -> None:
        """Make it, with what was taken over from a predecessor. Raises `OSError` where there is no room."""
        prefix = own_record_prefix(_key(first.drive), first.pid)
        self._file = RecordFile.create(prefix, msgspec.json.encode(first))
        self._record = first
        self._is_failing = False

    @property
    def name(self) -> str:
        """Its name in shared memory."""
        return self._file.name

    def fileno(self) -> int:
        """Its descriptor."""
        return self._file.fileno()

    def save(self, record: DriveRecord) -> None:
        """Write what changed, if anything did."""
        if record == msgspec.structs.replace(self._record, written_ns=record.written_ns):
            return
        try:
            self._file.write(msgspec.json.encode(record))
        except (OSError, ValueError) as error:
            if not self._is_failing:
                _log.error("what is set now is lost when the engine ends: %s", error)
            self._is_failing = True
            return
        self._record = record

    def close(self, *, goes_on: bool) -> None:
        """Leave the record to a successor if the drive goes on, and has something to go on with."""
        self._file.close(keep=goes_on and self._record.is_worth_keeping)


def _key(drive: DriveIdentity) -> str:
    return short_digest(msgspec.json.encode(drive))


def _read(name: str, trusted_users: Collection[int] = ()) -> FoundRecord | None:
    found = read_record(name, trusted_users)
    if found is None:
        return None
    try:
        record = msgspec.json.decode(found.payload, type=DriveRecord)
    except msgspec.DecodeError:
        return None
    return FoundRecord(name, record, found.is_held, found.owner)


def now_ns() -> int:
    """The time that records are told apart by; shared memory and this clock begin anew together."""
    return time.monotonic_ns()
