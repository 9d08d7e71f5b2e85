"""The engines that run on this machine, found by their segments."""

from pathlib import Path

from ringblk.engine.config import ConfigError
from ringblk.engine.statistics import StatisticsSnapshot, take_snapshot
from ringblk.shm.segment import SegmentError, segment_names
from ringblk.shm.state import SEGMENT_PREFIX, StateSegment


class RunningEngines:
    """Attached segments of the engines asked for: all, or the one that `wanted` names.

    `wanted` is a process id, a segment's name, or the drive's path or file name. Close them in the end.
    """

    def __init__(self, wanted: str | None = None) -> None:
        self._wanted = wanted
        self._states: dict[str, StateSegment] = {}

    def snapshots(self) -> list[StatisticsSnapshot]:
        """One of each engine that lives now. Raises `ConfigError` when the wanted one does not."""
        self._look()
        found = [take_snapshot(state) for state in self._states.values()]
        if self._wanted is None:
            return found
        found = [snapshot for snapshot in found if _is_meant(snapshot, self._wanted)]
        if not found:
            raise ConfigError(f"no engine {self._wanted} runs here", exit_status=1)
        return found

    def close(self) -> None:
        """Let go of all segments."""
        for state in self._states.values():
            state.close()
        self._states.clear()

    def _look(self) -> None:
        """Attach to new engines and forget those that have ended."""
        names = segment_names(SEGMENT_PREFIX)
        for name in names:
            if name not in self._states:
                try:
                    self._states[name] = StateSegment.attach(name)
                except SegmentError as error:
                    if self._wanted in (name, name.removeprefix(SEGMENT_PREFIX)):
                        raise ConfigError(str(error), exit_status=1) from error
                    continue  # of another version, another user, or gone meanwhile
        for name, state in list(self._states.items()):
            if name not in names or not state.is_alive:
                self._states.pop(name).close()


def _is_meant(snapshot: StatisticsSnapshot, wanted: str) -> bool:
    names = {
        snapshot.name,
        snapshot.name.removeprefix(SEGMENT_PREFIX),
        str(snapshot.supervisor_pid),
        snapshot.drive,
        Path(snapshot.drive).name,
    }
    return wanted in names or str(Path(wanted).absolute()) == snapshot.drive
