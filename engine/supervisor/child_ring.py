"""The io_uring of a child process: made before it; with the backend it is what fences a dead one."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ringblk.engine.supervisor.child import Child
from ringblk.engine.supervisor.process_setup import ProcessSetup
from ringblk.engine.zygote.messages import DispatcherRole, WorkerRole
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.uring.ring import Uring

FENCE_LOOK_S = 0.001
FENCE_WARNING_S = 5.0

_log = logging.getLogger(__name__)

Answer = TypeVar("Answer")


class ChildRing:
    """The ring of one child after the other in the place of that name; `entry_count` 0 stands for none."""

    def __init__(self, name: str, entry_count: int, backend: NativeBackend) -> None:
        """`name` as in `NativeBackend.prepare_process`."""
        self._name = name
        self._entry_count = entry_count
        self._backend = backend
        self._uring: Uring | None = None
        self._owner: Child[Any] | None = None

    def start(
        self,
        setup: ProcessSetup,
        process_name: str,
        role: DispatcherRole | WorkerRole,
        eventfds: Mapping[str, int],
        received_type: Any,
    ) -> Child[Any]:
        """Start a child with a ring of its own (`ProcessSetup.start`). The former one was reaped and fenced.

        Raises `OSError`, also where the backend cannot prepare for it.
        """
        own_fds = self._ask(self._backend.prepare_process)
        child = setup.start(process_name, role, eventfds, self._entry_count, received_type, own_fds)
        self.adopt(child)
        return child

    def adopt(self, child: Child[Any]) -> None:
        """The child's ring is the one that there is now, whoever has started it."""
        self._uring, self._owner = child.take_uring(), child

    def close(self) -> None:
        """Let go of the ring that there is: nobody goes on."""
        if self._owner is not None:
            self._owner.forget_ring()  # before it is closed
        self._uring = self._owner = None

    async def fence(self, wake: Callable[[], None] | None = None) -> None:
        """Wait until nothing that a reaped child began can still land (see `Uring`).

        `wake` ends what the ring itself may wait for. A disk that hangs makes it long, and is named then.
        Raises `OSError` where the backend cannot tell.
        """
        warn_at_s = time.monotonic() + FENCE_WARNING_S
        while not self._is_fenced():
            if wake is not None:
                wake()
            await asyncio.sleep(FENCE_LOOK_S)
            if time.monotonic() > warn_at_s:
                _log.warning("the next %s waits for the disk to answer the one that died", self._name)
                warn_at_s = math.inf
        self.close()

    def _is_fenced(self) -> bool:
        return (self._uring is None or self._uring.is_idle) and self._ask(self._backend.is_fenced)

    def _ask(self, question: Callable[[str], Answer]) -> Answer:
        """What the backend says of the child; an `OSError` where it fails at that."""
        try:
            return question(self._name)
        except OSError:
            raise
        except Exception as error:  # a user's own method: anything may come of it
            raise OSError(f"the backend fails: {error!r}") from error
