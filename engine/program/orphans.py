"""Drives that serve a front end and whose control plane has died: found, and gone on with or ended."""

import contextlib
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Collection

import msgspec

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.log_format import drive_in_log
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.dispatcher.messages import PROCESSES_PART, SESSION_PART
from ringblk.engine.drives.adopted_drive import AdoptedDrive
from ringblk.engine.drives.kept_drive import KeptDrive
from ringblk.engine.drives.segments import DriveSegment, adopt_segment, named_segments
from ringblk.engine.drives.storage import OpenedStorage
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.engine.supervisor.kept_parts import (
    ANSWER_TIMEOUT_S,
    AdoptedParts,
    AdoptionFailed,
    connect_to_orphan,
    left_parts,
    take_parts,
)
from ringblk.engine.supervisor.kept_processes import KeptProcesses, adopt_processes
from ringblk.engine.supervisor.socket_custody import SocketCustody
from ringblk.engine.supervisor.zygote_process import Zygote
from ringblk.shm.platform.process import signal_process
from ringblk.shm.platform.process_table import is_running
from ringblk.shm.segments.segment import SegmentError
from ringblk.shm.state.reader import read_engine, read_engine_name
from ringblk.workers.backends.opening import take_backend

_log = logging.getLogger(__name__)
_processes_decoder = msgspec.msgpack.Decoder(KeptProcesses)
_drive_decoder = msgspec.msgpack.Decoder(KeptDrive)


class Orphan(msgspec.Struct, frozen=True, kw_only=True):
    """A drive of a control plane that has died, whose dispatcher hears this process now."""

    segment_name: str
    is_of_engine: bool
    """Whether that was one of the same engine, and not of one that had a drive of the same name."""
    processes: KeptProcesses
    drive: KeptDrive
    parts: AdoptedParts

    def storage(self) -> OpenedStorage:
        """Its storage as it is open in its processes, locked. Raises `ProgramError`."""
        kept = self.processes
        try:
            fds = [self.parts.take(handle) for handle in kept.storage_fds]
        except (AdoptionFailed, OSError) as error:
            raise ProgramError(f"its storage cannot be gone on with: {error}", ExitStatus.FAILED) from error
        return OpenedStorage(take_backend(kept.storage, fds), frozenset(fds), kept.io)

    def adopt(self, zygote: Zygote) -> AdoptedDrive:
        """Make its processes this one's. Raises `ProgramError`; they have been ended then."""
        with drive_in_log(self.processes.name):
            _log.info(
                "the control plane before this one has left the drive with a front end: going on with it"
            )
        try:
            return AdoptedDrive(
                kept=self.drive,
                processes=adopt_processes(self.processes, self.parts, zygote),
                parts=self.parts,
                state=adopt_segment(self.parts.take(self.processes.segment), self.segment_name),
            )
        except (AdoptionFailed, SegmentError, OSError) as error:
            self.end()
            raise ProgramError(f"cannot be gone on with: {error}", ExitStatus.FAILED) from error

    def is_in_the_way_of(self, config: DriveConfig) -> bool:
        """Whether a drive of this configuration cannot be had while it runs."""
        kept = self.processes.config
        return any(
            getattr(kept, field) is not None and getattr(kept, field) == getattr(config, field)
            for field in ("socket_path", "blk_file", "overlay")
        )

    def let_go(self) -> None:
        """Leave it as it was: it is for another engine to go on with."""
        self.parts.let_go()

    def end(self) -> None:
        """Kill its processes, as those of an engine that is gone: its front end comes to the next one."""
        workers = [worker.process for worker in self.processes.workers.values()]
        for process in (self.processes.dispatcher, *workers):
            with contextlib.suppress(OSError):
                signal_process(self.parts.fds[process.pidfd], process.pid, signal.SIGKILL)
        self.let_go()


class _Called(msgspec.Struct, frozen=True):
    """One whose dispatcher was called."""

    segment_name: str
    is_of_engine: bool
    end: socket.socket
    second: AdoptedParts | None
    """What the zygote has of it, should it die now."""


def find_orphans(engine: str, drive_names: Collection[str], sockets: SocketCustody) -> list[Orphan]:
    """All that may be this engine's to go on with.

    `engine` is what it is called (`engine_name`), `drive_names` are its drives: those of others may be called
    the same. `sockets` has what the zygote has kept, of drives without a dispatcher as well.
    """
    orphans = []
    all_called = []
    # All are called before any is heard: those that hang are waited for together, not one after the other.
    for segment in named_segments():
        found = _call(segment, engine, drive_names, sockets)
        if isinstance(found, Orphan):
            orphans.append(found)
        elif found is not None:
            all_called.append(found)
    sockets.close_parts()
    given_up_s = time.monotonic() + ANSWER_TIMEOUT_S
    for called in all_called:
        try:
            parts = take_parts(called.end, given_up_s)
        except AdoptionFailed as error:
            orphan = _without_dispatcher(called.segment_name, called.is_of_engine, called.second)
            if orphan is not None:
                orphans.append(orphan)
            else:
                _log.info("shared memory segment %s is left alone: %s", called.segment_name, error)
            continue
        if called.second is not None:
            called.second.let_go()
        if (orphan := _decode(called.segment_name, called.is_of_engine, parts)) is not None:
            orphans.append(orphan)
    return orphans


def _call(
    segment: DriveSegment, engine: str, drive_names: Collection[str], sockets: SocketCustody
) -> _Called | Orphan | None:
    """Call its dispatcher; one that has died has left what the zygote has."""
    if segment.pid is not None and segment.pid != os.getpid() and is_running(segment.pid):
        return None  # somebody else's, who lives; this process may have been another program before
    try:
        with contextlib.closing(segment.copy()) as state:
            is_of_engine = engine != "" and read_engine_name(state) == engine
            if not is_of_engine and read_engine(state)[0] not in drive_names:
                return None
        segment_fd = segment.open()
    except SegmentError:
        return None
    try:
        info = os.fstat(segment_fd)
        second = left_parts(sockets.take_parts((info.st_dev, info.st_ino)))
        if second is not None and _has_died(second):
            return _without_dispatcher(segment.name, is_of_engine, second)
        end = connect_to_orphan(segment_fd)
    finally:
        os.close(segment_fd)
    if end is not None:
        return _Called(segment.name, is_of_engine, end, second)
    if second is not None:
        second.let_go()
    return None


def _has_died(second: AdoptedParts) -> bool:
    """Whether its dispatcher has."""
    try:
        processes = _processes_decoder.decode(second.states[PROCESSES_PART])
        return bool(select.select([second.fds[processes.dispatcher.pidfd]], [], [], 0)[0])
    except (KeyError, msgspec.DecodeError):
        return False


def _without_dispatcher(segment_name: str, is_of_engine: bool, second: AdoptedParts | None) -> Orphan | None:
    """A drive whose dispatcher has died before it could hand over; None: it begins anew."""
    if second is None:
        return None
    if not _has_died(second):
        second.let_go()
        return None
    orphan = _decode(segment_name, is_of_engine, second)
    if orphan is not None and not _is_settled(orphan):
        _log.warning("drive %s has lost its dispatcher in the middle of a message", orphan.processes.name)
        orphan.let_go()
        return None
    return orphan


def _is_settled(orphan: Orphan) -> bool:
    """Whether nothing was just being changed: what a dispatcher had begun of it, only that has known.

    Else the front end connects again, as after the end of everything.
    """
    drive = orphan.drive
    is_quiet = drive.session.message is None and not drive.session.is_over
    return is_quiet and all(queue.is_started for queue in drive.queues)


def _decode(segment_name: str, is_of_engine: bool, parts: AdoptedParts) -> Orphan | None:
    try:
        processes = _processes_decoder.decode(parts.states[PROCESSES_PART])
        drive = _drive_decoder.decode(parts.states[SESSION_PART])
    except (KeyError, msgspec.DecodeError) as error:
        _log.error("shared memory segment %s: what was kept of it is not whole: %s", segment_name, error)
        parts.let_go()
        return None
    return Orphan(
        segment_name=segment_name,
        is_of_engine=is_of_engine,
        processes=processes,
        drive=drive,
        parts=parts,
    )
