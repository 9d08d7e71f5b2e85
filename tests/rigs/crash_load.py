"""A load whose every byte is known: writes and reads in flight on all queues, and a model of each sector.

Each sector holds the stamp of the write that it comes from. Writes to one block may overlap in time, so a
sector may hold any write that no later one is known to have replaced: `a` is out once a write that began
after the end of `a` has ended. A read may find whatever was possible at some time while it was under way.
"""

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ringblk.engine.frontend.frontend import Frontend
from ringblk.engine.frontend.request import Completion
from ringblk.workers.backends.topology import SECTOR_BYTES
from ringblk.workers.block.protocol import RequestStatus

BLOCK_BYTES = 4096
_SECTORS = BLOCK_BYTES // SECTOR_BYTES
_MARK = struct.Struct("<QQ")
_NEVER = 1 << 62
"""Past the page cache, which the portable form has no way to on Linux."""
UNKNOWN_TYPE = 99
"""A request type that no device has: answered by the dispatcher itself."""


@dataclass
class Write:
    """One write of a block: its stamp, and when it began and ended, counted in events."""

    stamp: int
    began: int
    ended: int = _NEVER


@dataclass
class Read:
    """A read of a block: when it began, and the writes that it may find."""

    block: int
    began: int
    allowed: set[int] = field(default_factory=set)


class SectorModel:
    """What each block may hold: at first what a write with the stamp `first` leaves."""

    def __init__(self, num_blocks: int, first: int = 0) -> None:
        self._writes: list[list[Write]] = [[Write(first, 0, 0)] for _ in range(num_blocks)]
        self._reads: dict[int, list[Read]] = {}
        self._event = 0

    def begin_write(self, block: int, stamp: int) -> Write:
        """A write of the block is submitted."""
        write = Write(stamp, self._next_event())
        self._writes[block].append(write)
        for read in self._reads.get(block, ()):
            read.allowed.add(stamp)
        return write

    def end_write(self, block: int, write: Write) -> None:
        """It was reported done: what had ended before it began is no longer there."""
        write.ended = self._next_event()
        self._writes[block] = [other for other in self._writes[block] if other.ended >= write.began]

    def leave_write(self, write: Write) -> None:
        """Nothing more comes of it, and nobody knows whether it was done: it, or what was there, is there."""
        write.ended = self._next_event()

    def refuse_write(self, block: int, write: Write) -> None:
        """It was refused, and so it was never there."""
        self._writes[block] = [other for other in self._writes[block] if other is not write]

    def begin_read(self, block: int) -> Read:
        """A read of the block is submitted."""
        read = Read(block, self._next_event(), self.possible(block))
        self._reads.setdefault(block, []).append(read)
        return read

    def end_read(self, read: Read) -> None:
        """It was reported done."""
        self._reads[read.block] = [other for other in self._reads[read.block] if other is not read]

    def possible(self, block: int) -> set[int]:
        """The stamps that a sector of the block may hold now."""
        return {write.stamp for write in self._writes[block]}

    def _next_event(self) -> int:
        self._event += 1
        return self._event


def pattern(stamp: int, sector: int) -> bytes:
    """A sector as the write with this stamp leaves it; a drive begins with zeroes."""
    return bytes(SECTOR_BYTES) if stamp == 0 else _MARK.pack(stamp, sector) * (SECTOR_BYTES // _MARK.size)


def check_block(block: int, data: bytes, allowed: set[int], what: str, *, is_still: bool = False) -> None:
    """Every sector of the block is one of the writes that may be there; `is_still`: nothing is under way."""
    for index in range(_SECTORS):
        piece = data[index * SECTOR_BYTES : (index + 1) * SECTOR_BYTES]
        (check_sector if is_still else check_sector_read)(block * _SECTORS + index, piece, allowed, what)


def check_sector(sector: int, piece: bytes, allowed: set[int], what: str) -> None:
    """The sector is one of the writes that may be there, whole."""
    stamp = _MARK.unpack_from(piece)[0]
    assert stamp in allowed, f"{what}: sector {sector} holds write {stamp}, not one of {sorted(allowed)}"
    assert piece == pattern(stamp, sector), f"{what}: sector {sector} is torn (write {stamp})"


def check_sector_read(sector: int, piece: bytes, allowed: set[int], what: str) -> None:
    """The sector, read while writes may be under way, is one of those that may be there.

    It need not be whole: in a page cache, as in a tmpfs, one may see a part of what is being written.
    """
    if len(allowed) == 1:
        check_sector(sector, piece, allowed, what)
        return
    of_writes = zip(*(pattern(stamp, sector) for stamp in allowed), strict=True)
    foreign = [place for place, found in enumerate(of_writes) if piece[place] not in found]
    assert not foreign, f"{what}: sector {sector} holds at {foreign[0]} what is of none of {sorted(allowed)}"


class VerifiedLoad:
    """Keeps `depth` requests in flight on every queue of a front end."""

    def __init__(
        self,
        disk: Frontend,
        num_blocks: int,
        depth: int,
        seed: int,
        *,
        writes: float = 0.6,
        first_stamp: int = 0,
    ) -> None:
        self._num_blocks = num_blocks
        self._depth = depth
        self._random = random.Random(seed)
        self._writes = writes
        self._odd = 0.02
        self._model = SectorModel(num_blocks, first_stamp)
        self._stamp = 0
        self._sweep: list[int] = []
        self.completed = 0
        self.use(disk)

    def use(self, disk: Frontend) -> None:
        """Go on through another front end; nothing is in flight."""
        self._disk = disk
        self._open: list[dict[int, tuple[int, Write | Read | None]]] = [{} for _ in range(disk.num_queues)]
        self._spare = [disk.allocate(BLOCK_BYTES, 4096) for _ in range(self._depth * disk.num_queues)]

    def step(self, timeout_s: float = 0.05) -> int:
        """Fill all queues, then take what is done; returns how many requests that was."""
        self.submit_all()
        return self.take(timeout_s)

    def submit_all(self) -> None:
        """Fill all queues."""
        for queue_index in range(self._disk.num_queues):
            while len(self._open[queue_index]) < self._depth:
                self._submit(queue_index)
            self._disk.submit(queue_index=queue_index)

    @property
    def inflight_count(self) -> int:
        """Requests that were not answered yet."""
        return sum(len(requests) for requests in self._open)

    def begin_look(self) -> list[Read]:
        """Somebody else begins to look at all blocks, be it for a moment."""
        return [self._model.begin_read(block) for block in range(self._num_blocks)]

    def end_look(self, looks: list[Read]) -> None:
        """It has looked: `allowed` of each is final."""
        for look in looks:
            self._model.end_read(look)

    def begin_return(self, contents: Sequence[set[int]]) -> list[tuple[int, Write]]:
        """The drive may be as it was, any time from now on: each block holds one of these stamps then."""
        return [
            (block, self._model.begin_write(block, stamp))
            for block, stamps in enumerate(contents)
            for stamp in sorted(stamps)
        ]

    def end_return(self, returning: list[tuple[int, Write]], *, is_done: bool) -> None:
        """It is by now, but for what was written since it began; or it never was."""
        end = self._model.end_write if is_done else self._model.refuse_write
        for block, write in returning:
            end(block, write)

    def check_bytes(self, data: bytes) -> None:
        """What somebody reads of all blocks is as it may be now, whatever is in flight."""
        self._check_all(data, "all blocks")

    def begin_sweep(self) -> None:
        """Nothing is in flight, and no more writes are to come: read everything once."""
        assert not self.inflight_count
        self._sweep = list(range(self._num_blocks))

    def sweep(self) -> bool:
        """Go on with that; False when it is over."""
        for queue_index, requests in enumerate(self._open):
            while self._sweep and len(requests) < self._depth:
                self._submit_read(queue_index, self._sweep.pop())
            self._disk.submit(queue_index=queue_index)
        self.take()
        return bool(self._sweep or self.inflight_count)

    def check_image(self, image: Path) -> None:
        """Nothing is in flight: every block of the image is as it may be."""
        assert not self.inflight_count
        self._check_all(image.read_bytes()[: self._num_blocks * BLOCK_BYTES], "image", is_still=True)

    def _check_all(self, data: bytes, what: str, *, is_still: bool = False) -> None:
        for place in range(0, len(data), BLOCK_BYTES):
            block = place // BLOCK_BYTES
            piece = data[place : place + BLOCK_BYTES]
            check_block(block, piece, self._model.possible(block), what, is_still=is_still)

    def _submit(self, queue_index: int) -> None:
        requests = self._open[queue_index]
        choice = self._random.random()
        block = self._random.randrange(self._num_blocks)
        if choice < self._odd:
            token = self._disk.submit_request(UNKNOWN_TYPE, 0, queue_index=queue_index)
            requests[token] = (UNKNOWN_TYPE, None)
            return
        if choice < self._odd + self._writes:
            buffer = self._spare.pop()
            self._stamp += 1
            buffer.view[:] = b"".join(pattern(self._stamp, block * _SECTORS + i) for i in range(_SECTORS))
            token = self._disk.submit_write(block * BLOCK_BYTES, buffer, queue_index=queue_index)
            requests[token] = (block, self._model.begin_write(block, self._stamp))
        else:
            self._submit_read(queue_index, block)

    def _submit_read(self, queue_index: int, block: int) -> None:
        buffer = self._spare.pop()
        buffer.view[:] = b"\xee" * BLOCK_BYTES
        token = self._disk.submit_read(block * BLOCK_BYTES, buffer, queue_index=queue_index)
        self._open[queue_index][token] = (block, self._model.begin_read(block))

    def take(self, timeout_s: float = 0.05) -> int:
        """Take what is done, waiting a little if that is nothing; returns how many requests it was."""
        taken = self._take_ready()
        if not taken:
            waiting = next((index for index, requests in enumerate(self._open) if requests), None)
            if waiting is not None:
                for completion in self._disk.poll(1, timeout_s, queue_index=waiting):
                    self._finish(self._open[waiting], completion)
                    taken += 1
        self.completed += taken
        return taken

    def _take_ready(self) -> int:
        taken = 0
        for queue_index, requests in enumerate(self._open):
            completions = self._disk.poll(1, 0.0, queue_index=queue_index) if requests else []
            for completion in completions:
                self._finish(requests, completion)
            taken += len(completions)
        return taken

    def _finish(self, requests: dict[int, tuple[int, Write | Read | None]], completion: Completion) -> None:
        assert completion.token in requests, f"request {completion.token:#x} was answered twice"
        block, what = requests.pop(completion.token)
        if what is None:
            assert completion.status == RequestStatus.UNSUPP
            return
        assert completion.status == RequestStatus.OK, f"block {block} was answered with {completion.status}"
        assert completion.buffer is not None
        if isinstance(what, Write):
            self._model.end_write(block, what)
        else:
            self._model.end_read(what)
            check_block(block, bytes(completion.buffer), what.allowed, "read")
        self._spare.append(completion.buffer)
