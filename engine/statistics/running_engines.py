"""The engines that run on this machine, found by their segments."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.printable_text import utf8_text
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.drives.names import spoken_names, supervisor_of
from ringblk.engine.drives.segments import DriveSegment, all_segments, segments_of_others
from ringblk.engine.statistics.statistics import StatisticsSnapshot, take_snapshot
from ringblk.shm.platform.process_table import user_ids
from ringblk.shm.segments.segment import SegmentError


class RunningEngines:
    """The engines asked for: all, or the one that `wanted` names.

    `wanted` is a process id, a drive's name, its image's path or file name, or its segment's name.
    """

    def __init__(self, wanted: str | None = None) -> None:
        self._wanted = wanted
        self.hidden_owners: set[int] = set()
        """The users whose engines run here too and may not be looked at, as of the last look."""

    def snapshots(self) -> Iterator[StatisticsSnapshot]:
        """One of each engine that lives now. Raises `ProgramError` when the wanted one does not.

        One after the other: each takes some hundred KiB.
        """
        others = segments_of_others()
        self.hidden_owners = set(others.values())
        is_found = self._wanted is None
        for segment in all_segments():
            snapshot = self._look_at(segment)
            if snapshot is not None and (self._wanted is None or _is_meant(snapshot, self._wanted)):
                is_found = True
                yield snapshot
        if not is_found:
            raise self._not_found(others)

    def _not_found(self, others: Mapping[str, int]) -> ProgramError:
        for name, owner in others.items():
            if self._wanted in {*spoken_names(name), str(supervisor_of(name))}:
                return ProgramError(
                    f"engine {self._wanted} is another user's ({user_name(owner)})", ExitStatus.FAILED
                )
        hint = f", or it is another user's: {self.hidden_text}" if others else ""
        return ProgramError(f"no engine {self._wanted} runs here{hint}", ExitStatus.FAILED)

    @property
    def hidden_text(self) -> str:
        """Whose engines may not be looked at, in words."""
        users = ", ".join(map(user_name, sorted(self.hidden_owners)))
        return f"engines of other users run here ({users}); only they and root may look at them"

    def _look_at(self, segment: DriveSegment) -> StatisticsSnapshot | None:
        """None: it has ended, is of another version, or not to be believed."""
        try:
            if not segment.is_held() or not _is_plausible(segment):
                return None
            state = segment.copy()
        except SegmentError as error:
            if self._wanted in spoken_names(segment.name):
                raise ProgramError(str(error), ExitStatus.FAILED) from error
            return None
        try:
            return take_snapshot(state)
        finally:
            state.close()


def user_name(uid: int) -> str:
    """A user in words, also one that this machine does not know."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _is_plausible(segment: DriveSegment) -> bool:
    """Whether who made the segment can be the engine that its name tells of."""
    owner = segment.owner()
    return owner in (0, os.geteuid()) or (segment.pid is not None and owner in user_ids(segment.pid))


def _is_meant(snapshot: StatisticsSnapshot, wanted: str) -> bool:
    names = {
        *spoken_names(snapshot.name),
        str(snapshot.supervisor_pid),
        snapshot.drive,
        snapshot.storage,
        Path(snapshot.storage).name,
    }
    return wanted in names or utf8_text(wanted) in names or utf8_text(_absolute(wanted)) == snapshot.storage


def _absolute(path: str) -> str:
    try:
        return str(Path(path).absolute())
    except FileNotFoundError:  # the folder that this was started in has been removed
        return path
