"""A state machine: DirectIoFile against a bytearray, with faults, flushes, wrapping and reading back."""

import contextlib
import errno
import os
import random
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ringblk.engine.images.direct_io_file import DirectIoFile, DirectIoFileFailed
from ringblk.engine.images.direct_io_reader import DirectIoReader
from ringblk.workers.backends.direct_io import DirectMode
from tests.stress.counts import counts

BUFFER_BYTES = 16384
SIZES = st.one_of(
    st.integers(0, 600),
    st.sampled_from([512, 4096, 8192, BUFFER_BYTES, BUFFER_BYTES - 1]),
    st.integers(0, 3 * BUFFER_BYTES),
)
FAILURES = {"eio": errno.EIO, "enospc": errno.ENOSPC}
FAULTS = st.lists(st.sampled_from(["fine", "short", "refused", *FAILURES]), min_size=1, max_size=4)


class FaultyFile(DirectIoFile):
    """Its next writes go as `plan` says; `reached_bytes` is as far as any of them has been asked to go."""

    plan: deque[str]
    reached_bytes = 0
    is_broken = False
    wrote_behind_gap = False

    def _write_at(self, part: memoryview, offset_bytes: int) -> int:
        kind = self.plan.popleft() if self.plan else "fine"
        self.wrote_behind_gap |= self.is_broken
        if kind in FAILURES:
            counts["faults"] += 1
            self.is_broken = True
            raise OSError(FAILURES[kind], os.strerror(FAILURES[kind]))
        if kind == "refused" and self.direct and self._direct_mode == "auto":
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self.reached_bytes = max(self.reached_bytes, offset_bytes + len(part))
        written = super()._write_at(part, offset_bytes)
        return max(min(self._block_bytes, written), written * 2 // 3) if kind == "short" else written


class DirectIoMachine(RuleBasedStateMachine):
    """What is confirmed is there; what fails is said, once, and leaves what lies behind it alone."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="ringblk-")
        self.path = Path(self.folder.name) / "file"
        self.fds: list[int] = []
        self.old = b""  # what a wrapped file holds before
        self.plain = bytearray()  # what has been written
        self.synced_bytes = 0
        self.is_failed = False
        counts["examples"] += 1

    @initialize(
        way=st.sampled_from(["path", "descriptor", "name"]),
        direct=st.sampled_from(["auto", "off"]),
        buffer_count=st.integers(1, 3),
        old_bytes=SIZES,
    )
    def open(self, way: str, direct: DirectMode, buffer_count: int, old_bytes: int) -> None:
        self.path.write_bytes(random.Random(old_bytes).randbytes(old_bytes))
        target: Path | str | int = self.path
        if way != "path":
            self.old = self.path.read_bytes()
            fd = os.open(self.path, os.O_RDWR)
            os.lseek(fd, old_bytes // 2, os.SEEK_SET)  # of no account
            if way == "name":
                self.fds.append(fd)
            target = fd if way == "descriptor" else f"/dev/fd/{fd}"
        self.file = FaultyFile(target, direct=direct, buffer_bytes=BUFFER_BYTES, buffer_count=buffer_count)
        self.file.plan = deque()

    @rule(size_bytes=SIZES, seed=st.integers(0, 1 << 20))
    def write(self, size_bytes: int, seed: int) -> None:
        data = random.Random(seed).randbytes(size_bytes)
        wanted = self.plain + data
        with self.may_fail(wanted):
            assert self.file.write(data) == size_bytes
            self.plain = wanted

    @rule(size_bytes=SIZES)
    def write_zeroes(self, size_bytes: int) -> None:
        wanted = self.plain + bytes(size_bytes)
        with self.may_fail(wanted):
            self.file.write_zeroes(size_bytes)
            self.plain = wanted

    @rule()
    def flush(self) -> None:
        with self.may_fail(self.plain):
            self.file.flush()
            whole_bytes = len(self.plain) // self.file.alignment_bytes * self.file.alignment_bytes
            written = self.path.read_bytes()
            assert written[:whole_bytes].ljust(whole_bytes, b"\0") == self.plain[:whole_bytes]

    @rule()
    def sync_all(self) -> None:
        with self.may_fail(self.plain):
            assert self.file.sync_all() == self.file.bytes_synced == len(self.plain)
            self.check_all()

    @rule(faults=FAULTS)
    def break_the_next_writes(self, faults: list[str]) -> None:
        self.file.plan.extend(faults)

    @rule()
    def mend(self) -> None:
        """Nothing breaks any more: the background is done, and the plan is forgotten."""
        with self.may_fail(self.plain):
            self.file.flush()
            self.file.plan.clear()

    @rule(threads=st.integers(2, 3), size_bytes=st.integers(1, BUFFER_BYTES))
    def write_from_threads(self, threads: int, size_bytes: int) -> None:
        """Equal pieces, so their order does not matter."""
        piece = b"t" * size_bytes
        wanted = self.plain + piece * threads
        errors: list[BaseException] = []

        def write() -> None:
            try:
                self.file.write(piece)
            except (OSError, DirectIoFileFailed) as error:
                errors.append(error)

        running = [threading.Thread(target=write) for _ in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        with self.may_fail(wanted):
            first = [error for error in errors if isinstance(error, OSError)]
            assert len(first) == (1 if errors and not self.is_failed else 0)
            if errors:
                raise (first or errors)[0]
            self.plain = wanted

    @invariant()
    def what_is_confirmed_is_there(self) -> None:
        if not hasattr(self, "file"):
            return
        counts["rules"] += 1
        synced_bytes = self.file.bytes_synced
        assert not self.file.wrote_behind_gap
        assert self.synced_bytes <= synced_bytes
        assert synced_bytes <= self.file.bytes_written
        self.synced_bytes = synced_bytes
        if not self.is_failed:
            assert self.file.bytes_written == len(self.plain)
        content = self.path.read_bytes()
        known_bytes = min(synced_bytes, len(self.plain))
        assert content[:known_bytes].ljust(known_bytes, b"\0") == self.plain[:known_bytes]
        untouched_bytes = max(self.file.reached_bytes, self.synced_bytes)
        assert content[untouched_bytes : len(self.old)] == self.old[untouched_bytes:]

    def teardown(self) -> None:
        if hasattr(self, "file"):
            with self.may_fail(self.plain):
                self.file.close()
                if not self.is_failed:
                    self.check_all()
            assert self.file.closed
            for fd in self.fds:  # still open, and ours
                assert os.get_blocking(fd)
                os.close(fd)
        self.folder.cleanup()

    def check_all(self) -> None:
        """Read it back, past the page cache and through it."""
        expected = bytes(self.plain) + self.old[len(self.plain) :]
        assert self.path.read_bytes() == expected
        with DirectIoReader(self.path, buffer_bytes=BUFFER_BYTES, buffer_count=2) as reader:
            got = b"".join(
                bytes(span.size_bytes) if span.data is None else bytes(span.data) for span in reader.spans()
            )
        assert got == expected

    @contextlib.contextmanager
    def may_fail(self, wanted: bytes | bytearray) -> Iterator[None]:
        """An error comes once as itself, then as DirectIoFileFailed, and never without a fault."""
        raised: Exception | None = None
        try:
            yield
        except (OSError, DirectIoFileFailed) as error:
            raised = error
        if isinstance(raised, OSError):
            assert not self.is_failed
            assert raised.errno in FAILURES.values()
            assert self.file.failed is raised
            self.is_failed = True
            self.plain = bytearray(wanted)
        elif raised is not None:
            assert self.is_failed
            assert raised.__cause__ is self.file.failed


DirectIoMachine.TestCase.settings = settings(deadline=None, max_examples=40, stateful_step_count=25)
