"""Drives that serve a front end and whose control plane has died: found, and gone on with or ended."""

import contextlib
import logging
import os
import signal
import socket
import time

import msgspec

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.log_format import drive_in_log
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.dispatcher.messages import PROCESSES_PART, SESSION_PART
from ringblk.engine.drives.adopted_drive import AdoptedDrive
from ringblk.engine.drives.kept_drive import KeptDrive
from ringblk.engine.drives.segments import DriveSegment, adopt_segment, named_segments
from ringblk.engine.drives.storage import OpenedStorage
from ringblk.engine.supervisor.kept_parts import (
    ANSWER_TIMEOUT_S,
    AdoptedParts,
    AdoptionFailed,
    connect_to_orphan,
    take_parts,
)
from ringblk.engine.supervisor.kept_processes import KeptProcesses, adopt_processes
from ringblk.engine.supervisor.zygote_process import Zygote
from ringblk.shm.platform.process import signal_process
from ringblk.shm.platform.process_table import is_running
from ringblk.shm.segments.segment import SegmentError
from ringblk.workers.backends.opening import take_backend

_log = logging.getLogger(__name__)
_processes_decoder = msgspec.msgpack.Decoder(KeptProcesses)
_drive_decoder = msgspec.msgpack.Decoder(KeptDrive)


class Orphan(msgspec.Struct, frozen=True, kw_only=True):
    """A drive of an earlier control plane of the same zygote, whose dispatcher hears this process now."""

    segment_name: str
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

    def end(self) -> None:
        """Kill its processes, as those of an engine that is gone: its front end comes to the next one."""
        workers = [worker.process for worker in self.processes.workers.values()]
        for process in (self.processes.dispatcher, *workers):
            with contextlib.suppress(OSError):
                signal_process(self.parts.fds[process.pidfd], process.pid, signal.SIGKILL)
        self.parts.channel.close()
        self.parts.close()


def find_orphans(zygote_pid: int) -> dict[str, Orphan]:
    """All of them, by the drive's name."""
    # All are called before any is heard: those that hang are waited for together, not one after the other.
    called = [(segment.name, end) for segment in named_segments() if (end := _call(segment, zygote_pid))]
    given_up_s = time.monotonic() + ANSWER_TIMEOUT_S
    orphans = {}
    for name, end in called:
        try:
            parts = take_parts(end, given_up_s)
        except AdoptionFailed as error:
            _log.info("shared memory segment %s is left alone: %s", name, error)
            continue
        if (orphan := _decode(name, parts)) is not None:
            orphans[orphan.processes.name] = orphan
    return orphans


def _call(segment: DriveSegment, zygote_pid: int) -> socket.socket | None:
    if segment.pid is not None and is_running(segment.pid):
        return None  # somebody else's, who lives
    try:
        segment_fd = segment.open()
    except SegmentError:
        return None
    try:
        return connect_to_orphan(segment_fd, zygote_pid)
    finally:
        os.close(segment_fd)


def _decode(segment_name: str, parts: AdoptedParts) -> Orphan | None:
    try:
        processes = _processes_decoder.decode(parts.states[PROCESSES_PART])
        drive = _drive_decoder.decode(parts.states[SESSION_PART])
    except (KeyError, msgspec.DecodeError) as error:
        _log.error(
            "shared memory segment %s: what its dispatcher has kept is not whole: %s", segment_name, error
        )
        parts.channel.close()
        parts.close()
        return None
    with drive_in_log(processes.name):
        _log.info("the control plane before this one has left the drive with a front end: going on with it")
    return Orphan(segment_name=segment_name, processes=processes, drive=drive, parts=parts)
