"""An engine after another: how the first ends, and a front end that goes on with the next."""

import contextlib
import signal
from collections.abc import Iterator

from ringblk.workers.block.config_space import WRITEBACK_OFFSET_BYTES
from tests.rigs.engine_process import wait_gone
from tests.rigs.engine_rig import DEADLINE_S, Engine, RawFrontend

DISK_BYTES = 1 << 20
WAYS = ("killed", "told to end", "taken over")
QUEUE_SIZE = 16


@contextlib.contextmanager
def succeeded(old: Engine, way: str, *options: str) -> Iterator[Engine]:
    """The engine after this one, which ends in one of the `WAYS`."""
    if way == "killed":
        children = old.children()
        old.end(signal.SIGKILL)
        wait_gone(list(children))  # an orphan's entry in /proc stays until init looks, which may be seconds
    elif way == "told to end":
        assert old.end() == 0
    takeover = ["--takeover"] if way == "taken over" else []
    with Engine(*options, *takeover, after=old) as new:
        assert old.process.wait(DEADLINE_S) == (-signal.SIGKILL if way == "killed" else 0)
        yield new


class Guest(RawFrontend):
    """A front end that keeps an in-flight region, as QEMU does."""

    def __enter__(self) -> "Guest":
        return self

    def begin(self) -> "Guest":
        self.negotiate()
        self.add_memory()
        self.inflight = self.connection.get_inflight(1, QUEUE_SIZE)
        self.connection.set_inflight(*self.inflight)
        self.start_queue(0)
        return self

    def go_on(self, engine: Engine, *, with_inflight: bool = True) -> None:
        """Connect to the next engine; nothing that was written to the config space is written again."""
        self.connection.close()
        self.connect(engine)
        self.negotiate()
        self.add_memory()
        if with_inflight:
            self.connection.set_inflight(*self.inflight)
        self.start_queue(0)

    def write_back(self, value: int) -> None:
        self.connection.set_config(WRITEBACK_OFFSET_BYTES, bytes([value]))

    @property
    def shown_writeback(self) -> int:
        return self.connection.get_config(WRITEBACK_OFFSET_BYTES, 1)[0]
