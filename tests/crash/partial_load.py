"""Requests that share blocks of 4096 bytes, and change other sectors of them, in flight together.

Each round changes every block of a small drive by two requests at least, and then reads them all. A sector
holds what one of the requests that named it has put there in this round; one that no request named is as it
was. Where a part of a block is changed by reading, changing and writing the block, what was written beside it
meanwhile would be lost: that is a sector with an older stamp.
"""

import random
from collections.abc import Callable

from ringblk.engine.frontend.buffer import Buffer
from ringblk.engine.frontend.frontend import Frontend
from ringblk.engine.frontend.request import BackendGone
from ringblk.workers.backends.topology import SECTOR_BYTES
from ringblk.workers.block.protocol import RequestType
from tests.rigs.crash_load import BLOCK_BYTES, pattern

SECTORS = BLOCK_BYTES // SECTOR_BYTES
FLUSHES = 0.15
"""How often a flush goes along with what changes a block."""
ZEROES = 0
"""The stamp of sectors that were zeroed, and of a new drive."""


class PartialLoad:
    """Rounds of requests on the first `num_blocks` blocks of a drive, over all of its queues."""

    def __init__(
        self, disk: Frontend, num_blocks: int, seed: int, *, first_stamp: int = ZEROES, flushes: bool = False
    ) -> None:
        """`first_stamp` is what the drive holds at first; with `flushes` each round has some."""
        self._disk = disk
        self._flushes = flushes
        self._num_blocks = num_blocks
        self._random = random.Random(seed)
        self._stamp = 0
        self._allowed: list[set[int]] = [{first_stamp} for _ in range(num_blocks * SECTORS)]
        self._touched: dict[int, set[int]] = {}
        self._open: list[set[int]] = [set() for _ in range(disk.num_queues)]
        self._whole = disk.allocate(num_blocks * BLOCK_BYTES, BLOCK_BYTES)
        self._buffers: list[Buffer] = []
        self.requests = 0

    def round(self, reconnect: Callable[[], None], disturb: Callable[[], object] = lambda: None) -> None:
        """One round; `disturb` is called with all of it in flight, `reconnect` when the engine has gone."""
        self._touched.clear()
        blocks = list(range(self._num_blocks))
        self._random.shuffle(blocks)
        for block in blocks:
            self._random.choice((self._pair, self._pair, self._parts, self._zeroes, self._straddle))(block)
            if self._flushes and self._random.random() < FLUSHES:
                self._flush()
        for queue_index in range(self._disk.num_queues):
            self._disk.submit(queue_index=queue_index)
        disturb()
        self._take_all(reconnect)
        for sector, stamps in self._touched.items():
            self._allowed[sector] = stamps
        for buffer in self._buffers:
            buffer.release()
        self._buffers.clear()
        self._check(reconnect)

    def _pair(self, block: int) -> None:
        """One sector, and the whole block."""
        first = block * SECTORS
        requests = [(first + self._random.randrange(SECTORS), 1), (first, SECTORS)]
        self._random.shuffle(requests)
        for sector, count in requests:
            self._write(sector, count)

    def _parts(self, block: int) -> None:
        """All sectors one by one."""
        for index in self._random.sample(range(SECTORS), SECTORS):
            self._write(block * SECTORS + index, 1)

    def _zeroes(self, block: int) -> None:
        """One sector written, others zeroed beside it: some of the block, or all of it."""
        first = block * SECTORS
        start, end = sorted(self._random.sample(range(SECTORS + 1), 2))
        parts = [(self._zero, start, end - start), (self._zero, 0, SECTORS)]
        parts.append((self._write, self._random.randrange(SECTORS), 1))
        for change, sector, count in self._random.sample(parts, 2):
            change(first + sector, count)

    def _straddle(self, block: int) -> None:
        """From within this block to within the next, and both blocks."""
        first = block * SECTORS
        start = first + self._random.randrange(1, SECTORS)
        end = min(first + SECTORS + self._random.randrange(1, SECTORS), self._num_blocks * SECTORS)
        self._write(start, end - start)
        self._write(first, SECTORS)
        if end > first + SECTORS:
            self._write(first + SECTORS, SECTORS)

    def _write(self, sector: int, count: int) -> None:
        self._stamp += 1
        buffer = self._disk.allocate(count * SECTOR_BYTES, self._random.choice((SECTOR_BYTES, BLOCK_BYTES)))
        buffer.view[:] = b"".join(pattern(self._stamp, sector + index) for index in range(count))
        self._buffers.append(buffer)
        self._note(sector, count, self._stamp)
        queue_index = self._random.randrange(self._disk.num_queues)
        token = self._disk.submit_request(RequestType.OUT, sector, buffer, queue_index=queue_index)
        self._open[queue_index].add(token)

    def _zero(self, sector: int, count: int) -> None:
        self._note(sector, count, ZEROES)
        queue_index = self._random.randrange(self._disk.num_queues)
        offset_bytes, size_bytes = sector * SECTOR_BYTES, count * SECTOR_BYTES
        token = self._disk.submit_write_zeroes(offset_bytes, size_bytes, queue_index=queue_index)
        self._open[queue_index].add(token)

    def _flush(self) -> None:
        queue_index = self._random.randrange(self._disk.num_queues)
        self._open[queue_index].add(self._disk.submit_flush(queue_index=queue_index))

    def _note(self, sector: int, count: int, stamp: int) -> None:
        for index in range(sector, sector + count):
            self._touched.setdefault(index, set()).add(stamp)
        self.requests += 1

    def _take_all(self, reconnect: Callable[[], None]) -> None:
        for queue_index, tokens in enumerate(self._open):
            while tokens:
                try:
                    completions = self._disk.poll(1, 30.0, queue_index=queue_index)
                except BackendGone:
                    reconnect()
                    continue
                assert completions, f"{len(tokens)} requests do not come back"
                for completion in completions:
                    assert completion.status == 0, f"status {completion.status}"
                    tokens.remove(completion.token)

    def _check(self, reconnect: Callable[[], None]) -> None:
        self._open[0].add(self._disk.submit_read(0, self._whole))
        self._take_all(reconnect)
        self.check_bytes(self._whole.view)

    def check_bytes(self, content: memoryview) -> None:
        """See that these, the first of the drive, are what it may hold."""
        lost = []
        for sector, allowed in enumerate(self._allowed):
            piece = bytes(content[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES])
            if piece not in [pattern(stamp, sector) for stamp in allowed]:
                lost.append(sector)
        assert not lost, f"lost: sectors {lost}, after {self.requests} requests"
