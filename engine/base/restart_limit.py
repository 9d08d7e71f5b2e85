"""How often a child may die before the engine gives up on it."""

import time
from collections import deque
from collections.abc import Callable

MAX_DEATHS = 5
WINDOW_S = 10.0


class RestartLimit:
    """More than `MAX_DEATHS` deaths within `WINDOW_S` seconds without progress are too many."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deaths_s: deque[float] = deque(maxlen=MAX_DEATHS + 1)
        self._own_count = -1
        self._engine_count = -1

    def allows(self, own_count: int, engine_count: int, own_fault: bool) -> bool:
        """Count a death; a request done since the last one starts the counting anew.

        `own_count` is of the requests that the child has done, `engine_count` of all. A child that was killed
        from outside may have had nothing to do: what others have done speaks for it as well.
        """
        now_s = self._clock()
        if own_count != self._own_count or (not own_fault and engine_count != self._engine_count):
            self._deaths_s.clear()
        self._own_count, self._engine_count = own_count, engine_count
        self._deaths_s.append(now_s)
        return len(self._deaths_s) <= MAX_DEATHS or now_s - self._deaths_s[0] > WINDOW_S
