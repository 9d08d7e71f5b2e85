"""A guest that moves from one QEMU to another, step by step.

`begin` ends when half of memory was copied, and nothing more is from then on, until `finish`. What happens
meanwhile to the pages of that half reaches the other side through the dirty log alone.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tests.rigs.guest import Guest
from tests.rigs.monitor import MonitorError

_GUARD_S = 120.0
_OVER = ("completed", "failed", "cancelled")
# Slower towards the half, so that this is seen in time.
_SPEEDS = ((0.6, 1 << 25), (0.5, 1 << 22))
"""How much is left at the end of each stretch, and how many bytes a second are copied in it."""
_STOPPED = 1000
_FAST = {"downtime-limit": 60_000, "max-bandwidth": 1 << 34}
"""The guest may stand still for long (in ms), so that the next pass is the last one."""


class Move:
    """A guest on its way from `source` to `target`, a QEMU that waits for it (`Guest(is_incoming=True)`)."""

    def __init__(self, source: Guest, target: Guest, folder: Path) -> None:
        self._source = source.monitor
        self._target = target.monitor
        self._uri = f"unix:{folder / 'move'}"

    def begin(self, *, stops_before_end: bool = False) -> None:
        """Begin, and stop copying when half of memory was copied; the guest runs on.

        With `stops_before_end` the last step waits, with the guest stopped (`wait_stopped`).
        """
        for monitor in (self._source, self._target):
            capability = {"capability": "pause-before-switchover", "state": stops_before_end}
            monitor.ask("migrate-set-capabilities", capabilities=[capability])
        self._copy_at(_SPEEDS[0][1])
        self._target.ask("migrate-incoming", uri=self._uri)
        self._source.ask("migrate", uri=self._uri)
        for left, bytes_a_second in _SPEEDS:
            self._copy_at(bytes_a_second)
            self._wait("memory to be copied", partial(_is_copied, left))
        self._copy_at(_STOPPED)

    def _copy_at(self, bytes_a_second: int) -> None:
        self._source.ask("migrate-set-parameters", **{"downtime-limit": 1, "max-bandwidth": bytes_a_second})

    def finish(self) -> dict[str, Any]:
        """Let it come to its end; what QEMU says of it."""
        self._source.ask("migrate-set-parameters", **_FAST)
        state = self._wait("the guest to arrive", lambda state: state["status"] == "completed")
        deadline = time.monotonic() + _GUARD_S
        while not self._target.ask("query-status")["running"]:
            assert time.monotonic() < deadline, "the guest has arrived and does not run"
        return state

    def wait_stopped(self) -> None:
        """Let it come to its last step, which is not taken: the guest stands still, its queues too."""
        self._source.ask("migrate-set-parameters", **_FAST)
        self._wait("the guest to stop", lambda state: state["status"] == "pre-switchover")

    def cancel(self) -> None:
        """Have the guest stay where it is."""
        self._source.ask("migrate_cancel")
        self._wait("the move to be cancelled", lambda state: state["status"] == "cancelled")

    def _wait(self, what: str, condition: Callable[[Mapping[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + _GUARD_S
        is_over = False
        while True:
            state: dict[str, Any] = self._source.ask("query-migrate")
            if condition(state):
                return state
            if is_over or time.monotonic() > deadline:
                raise MonitorError(f"waited for {what}: {state}")
            is_over = state.get("status") in _OVER
            time.sleep(0.01)


def _is_copied(left: float, state: Mapping[str, Any]) -> bool:
    """Whether no more than this part of memory is left, in the first pass."""
    if state.get("status") in _OVER or state.get("ram", {}).get("dirty-sync-count", 0) > 1:
        raise MonitorError(f"the first pass is over before it was seen: {state}")
    memory = state.get("ram", {})
    return bool(memory.get("total")) and memory["remaining"] <= left * memory["total"]
