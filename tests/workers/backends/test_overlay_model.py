"""An overlay against a model of its bytes: each reads as the last thing that was done to it."""

import os
import random
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ringblk.workers.backends.open_storage import OpenOverlay
from ringblk.workers.backends.overlay import OverlayBackend
from ringblk.workers.backends.topology import SECTOR_BYTES
from ringblk.workers.layers.folder import LIVE
from tests.rigs.killed_overlay import let_go

MAX_BYTES = 80 * 4096
SIZES = st.integers(1, MAX_BYTES // SECTOR_BYTES).map(lambda count: count * SECTOR_BYTES)
BLOCK_SIZES = st.integers(1, MAX_BYTES // 4096).map(lambda count: count * 4096)


class OverlayMachine(RuleBasedStateMachine):
    """An overlay, opened anew after a clean end, a kill of everything, or a boot that follows a flush."""

    def __init__(self) -> None:
        super().__init__()
        self.others: list[OverlayBackend] = []

    @initialize(
        base_bytes=SIZES | BLOCK_SIZES,
        size_bytes=SIZES | BLOCK_SIZES | st.none(),
        seed=st.integers(0, 99),
        place=st.sampled_from(["/dev/shm"] * 4 + ["/var/tmp"]),
    )
    def make(self, base_bytes: int, size_bytes: int | None, seed: int, place: str) -> None:
        # On a disk now and then, where direct I/O is what it is, and takes its time.
        self.folder = Path(tempfile.mkdtemp(prefix="ringblk-test-", dir=place))
        self.random = random.Random(seed)
        self.base = self.folder / "base"
        content = self.random.randbytes(base_bytes)
        self.base.write_bytes(content)
        self.base_modified_ns = self.base.stat().st_mtime_ns
        self.size_bytes = size_bytes or base_bytes
        self.model = bytearray(content[: self.size_bytes].ljust(self.size_bytes, b"\0"))
        self.direct = "auto" if place == "/var/tmp" else "off"
        self.open(size_bytes)

    def open(self, size_bytes: int | None = None) -> None:
        self.backend = OverlayBackend(
            self.base, self.folder / "overlay", size_bytes=size_bytes, direct=self.direct
        )
        self.backend.image_lock().lock()
        self.others = [self.another() for _ in range(2)]

    def another(self) -> OverlayBackend:
        """The same in another process, as good as."""
        storage, fds = self.backend.hand_over()
        assert isinstance(storage, OpenOverlay)
        taken = OverlayBackend.take(storage, [os.dup(fd) for fd in fds])
        assert taken.hand_over()[0] == storage  # for the next control plane's processes
        return taken

    def range(self, data: st.DataObject) -> tuple[int, int]:
        """Offset and length: sectors, now and then whole blocks, up to the end."""
        unit = data.draw(st.sampled_from([SECTOR_BYTES, 4096]))
        count = self.size_bytes // unit or 1
        unit = min(unit, self.size_bytes)
        first = data.draw(st.integers(0, count - 1))
        end = data.draw(st.integers(first + 1, min(count, first + 40)))
        is_to_end = data.draw(st.integers(0, 9)) == 0
        end_bytes = self.size_bytes if is_to_end else end * unit
        return first * unit, end_bytes - first * unit

    def any(self) -> OverlayBackend:
        return self.random.choice([self.backend, *self.others])

    @rule(data=st.data(), durable=st.booleans())
    def write(self, data: st.DataObject, durable: bool) -> None:
        offset, length = self.range(data)
        content = self.random.randbytes(length)
        cuts = sorted(self.random.choices(range(0, length, SECTOR_BYTES), k=self.random.randrange(4)))
        pieces = [content[a:b] for a, b in zip([0, *cuts], [*cuts, length], strict=True)]
        self.any().write_ranges(offset, pieces, durable=durable)
        self.model[offset : offset + length] = content

    @rule(data=st.data(), may_unmap=st.booleans())
    def write_zeroes(self, data: st.DataObject, may_unmap: bool) -> None:
        offset, length = self.range(data)
        self.any().write_zeroes(offset, length, may_unmap=may_unmap)
        self.model[offset : offset + length] = bytes(length)

    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        offset, length = self.range(data)
        self.any().discard(offset, length)
        first = -(-offset // 4096) * 4096
        end = offset + length if offset + length == self.size_bytes else (offset + length) // 4096 * 4096
        if first < end:
            self.model[first:end] = bytes(end - first)

    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        offset, length = self.range(data)
        cuts = sorted(self.random.choices(range(length), k=self.random.randrange(4)))
        pieces = [bytearray(b - a) for a, b in zip([0, *cuts], [*cuts, length], strict=True)]
        self.any().read_ranges(offset, pieces)
        assert b"".join(pieces) == self.model[offset : offset + length]

    @rule()
    def flush(self) -> None:
        self.any().flush()

    @rule()
    def kill_everybody(self) -> None:
        """Nobody saves anything; the live map is what it is."""
        self.let_go()
        self.open()

    @rule()
    def end_cleanly(self) -> None:
        self.let_go_of(self.others)
        self.backend.close()
        self.open()

    @rule()
    def boot_after_flush(self) -> None:
        """The live map counts for nothing, and nothing is lost of what was flushed."""
        self.any().flush()
        self.let_go()
        (self.folder / "overlay" / LIVE).write_bytes(self.random.randbytes(9000))
        self.open()

    def let_go(self) -> None:
        self.let_go_of(self.others)
        self.let_go_of([self.backend])
        del self.backend

    @staticmethod
    def let_go_of(backends: list[OverlayBackend]) -> None:
        """As if their processes were killed: the other descriptors are closed with their backends."""
        while backends:
            let_go(backends.pop())

    @precondition(lambda self: hasattr(self, "backend"))
    @invariant()
    def base_is_only_read(self) -> None:
        assert self.base.stat().st_mtime_ns == self.base_modified_ns

    def teardown(self) -> None:
        if hasattr(self, "backend"):
            whole = bytearray(self.size_bytes)
            self.backend.read_at(0, whole)
            assert whole == self.model
            self.let_go()
            shutil.rmtree(self.folder)


TestOverlay = OverlayMachine.TestCase
TestOverlay.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
