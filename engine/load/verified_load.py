"""A mixed load whose every answer is checked: reads, writes, flushes, discards and zeroes at random places.

It drives a `Frontend` with many requests in flight and knows what each block must hold (`DiskModel`). A
block belongs to one request at a time, so that what a read must find is certain. The order of requests
follows from the seed and from the order in which they come back.
"""

import random
from collections.abc import Callable

import msgspec

from ringblk.engine.frontend.buffer import Buffer
from ringblk.engine.frontend.frontend import Frontend
from ringblk.engine.frontend.request import Completion
from ringblk.engine.load.disk_model import DiskModel
from ringblk.shm.layout.histogram import Histogram
from ringblk.workers.block.protocol import (
    F_DISCARD,
    F_FLUSH,
    F_RO,
    F_WRITE_ZEROES,
    RequestStatus,
    RequestType,
)

MAX_FAULTS = 20
"""Faults that are described; all are counted."""
_SWEEP_BYTES = 1 << 20
_FEATURES = {
    RequestType.FLUSH: F_FLUSH,
    RequestType.DISCARD: F_DISCARD,
    RequestType.WRITE_ZEROES: F_WRITE_ZEROES,
}
_MIX = {
    RequestType.IN: 50,
    RequestType.OUT: 40,
    RequestType.FLUSH: 2,
    RequestType.DISCARD: 4,
    RequestType.WRITE_ZEROES: 4,
}


class LoadSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A load's shape: requests of 1 to `max_blocks` blocks, `depth` of them in flight on each queue."""

    block_bytes: int = 4096
    max_blocks: int = 16
    depth: int = 16
    seed: int = 1


class OperationResult(msgspec.Struct):
    """What came of one type of request."""

    data_bytes: int = 0
    latencies: Histogram = msgspec.field(default_factory=Histogram)


class _Request(msgspec.Struct):
    queue_index: int
    request_type: RequestType
    blocks: range
    version: int = 0
    buffer: Buffer | None = None


class VerifiedLoad:
    """A load on a disk that holds nothing but zeroes at the start.

    `step` until there has been enough, then `drain` and `verify_all`; `fault_count` is 0 when all was right.
    It takes all that comes back on the disk's queues: send nothing else there. When `step` or `drain` raises
    BackendGone, go on after `Frontend.reconnect`. Raises `ValueError` where the settings do not fit the disk.
    """

    def __init__(self, disk: Frontend, settings: LoadSettings | None = None) -> None:
        self._disk = disk
        self._settings = settings or LoadSettings()
        self._check_settings()
        self.model = DiskModel(
            disk.capacity_bytes // self._settings.block_bytes, self._settings.block_bytes, self._settings.seed
        )
        self.results = {request_type: OperationResult() for request_type in RequestType}
        self.faults: list[str] = []
        self.fault_count = 0
        self._random = random.Random(self._settings.seed)
        self._types = [
            kind for kind in _MIX if disk.features & _FEATURES.get(kind, 0) or kind not in _FEATURES
        ]
        self._weights = [_MIX[request_type] for request_type in self._types]
        self._requests: dict[int, _Request] = {}
        # Sent and not taken in: the queue's own count leaves out what it keeps for a later poll().
        self._pending_counts = [0] * disk.num_queues
        self._owned_blocks: set[int] = set()
        size_bytes = self._settings.max_blocks * self._settings.block_bytes
        self._buffers = [
            disk.allocate(size_bytes, 4096) for _ in range(self._settings.depth * disk.num_queues)
        ]

    def _check_settings(self) -> None:
        settings, disk = self._settings, self._disk
        if disk.features & F_RO:
            raise ValueError("the disk is read-only")
        if settings.block_bytes % disk.config.blk_size:
            raise ValueError(
                f"{settings.block_bytes} is no multiple of the disk's {disk.config.blk_size} bytes"
            )
        owned_at_most = settings.depth * disk.num_queues * settings.max_blocks
        if disk.capacity_bytes // settings.block_bytes < 4 * owned_at_most:
            raise ValueError(
                f"a disk of {disk.capacity_bytes} bytes is too small for so many requests at once"
            )

    @property
    def request_count(self) -> int:
        """Requests that have come back."""
        return sum(result.latencies.count for result in self.results.values())

    def step(self) -> int:
        """Fill every queue up and take in what has come back; returns how much that was."""
        taken = 0
        for queue_index in range(self._disk.num_queues):
            for _ in range(self._settings.depth - self._pending_counts[queue_index]):
                self._submit(queue_index)
            taken += self._take(self._disk.poll(queue_index=queue_index))
        return taken

    def drain(self) -> None:
        """Wait for all requests in flight."""
        for queue_index in range(self._disk.num_queues):
            while self._pending_counts[queue_index]:
                self._take(self._disk.poll(queue_index=queue_index))

    def verify_all(self, on_progress: Callable[[int], None] | None = None) -> None:
        """Read the whole disk and check it; `on_progress` is given the bytes checked so far."""
        part_blocks = max(1, _SWEEP_BYTES // self._settings.block_bytes)
        for first_block in range(0, self.model.num_blocks, part_blocks):
            count = min(part_blocks, self.model.num_blocks - first_block)
            offset_bytes = first_block * self._settings.block_bytes
            data = self._disk.read(offset_bytes, count * self._settings.block_bytes)
            self.note_faults(self.model.faults(first_block, data))
            if on_progress is not None:
                on_progress(offset_bytes + len(data))

    def _submit(self, queue_index: int) -> None:
        (request_type,) = self._random.choices(self._types, self._weights)
        blocks = range(0) if request_type is RequestType.FLUSH else self._choose_blocks()
        request = _Request(queue_index, request_type, blocks)
        self._requests[self._send(request, queue_index)] = request
        self._pending_counts[queue_index] += 1
        self._owned_blocks.update(blocks)

    def _choose_blocks(self) -> range:
        """Neighbouring blocks that no request in flight has; small requests are the more frequent ones."""
        while True:
            count = 1 + int(self._settings.max_blocks * self._random.random() ** 3)
            first_block = self._random.randrange(self.model.num_blocks - count + 1)
            blocks = range(first_block, first_block + count)
            if self._owned_blocks.isdisjoint(blocks):
                return blocks

    def _send(self, request: _Request, queue_index: int) -> int:
        disk, blocks = self._disk, request.blocks
        offset_bytes = blocks.start * self._settings.block_bytes
        size_bytes = len(blocks) * self._settings.block_bytes
        match request.request_type:
            case RequestType.IN:
                part = self._take_buffer(request, size_bytes)
                return disk.submit_read(offset_bytes, part, queue_index=queue_index)
            case RequestType.OUT:
                request.version = self.model.new_version()
                part = self._take_buffer(request, size_bytes)
                part.view[:] = b"".join(self.model.content(block, request.version) for block in blocks)
                return disk.submit_write(offset_bytes, part, queue_index=queue_index)
            case RequestType.DISCARD:
                return disk.submit_discard(offset_bytes, size_bytes, queue_index=queue_index)
            case RequestType.WRITE_ZEROES:
                unmap = self._random.random() < 0.5
                return disk.submit_write_zeroes(
                    offset_bytes, size_bytes, unmap=unmap, queue_index=queue_index
                )
            case _:
                return disk.submit_flush(queue_index=queue_index)

    def _take_buffer(self, request: _Request, size_bytes: int) -> Buffer:
        request.buffer = self._buffers.pop()
        return request.buffer.part(0, size_bytes)

    def _take(self, completions: list[Completion]) -> int:
        for completion in completions:
            request = self._requests.pop(completion.token)
            self._pending_counts[request.queue_index] -= 1
            self._settle(request, completion)
            self._owned_blocks.difference_update(request.blocks)
            if request.buffer is not None:
                self._buffers.append(request.buffer)
            result = self.results[request.request_type]
            result.latencies.record(completion.latency_ns)
            if request.buffer is not None:
                result.data_bytes += len(request.blocks) * self._settings.block_bytes
        return len(completions)

    def _settle(self, request: _Request, completion: Completion) -> None:
        """Check what came back, and bring the model up to it."""
        if completion.status != RequestStatus.OK:
            self.note_faults(
                [f"{request.request_type.name} of {request.blocks} has status {completion.status}"]
            )
            self._allow(request)
            return
        match request.request_type:
            case RequestType.IN:
                assert completion.buffer is not None  # a read has one
                self.note_faults(self.model.faults(request.blocks.start, bytes(completion.buffer)))
            case RequestType.OUT:
                self.model.set_version(request.blocks, request.version)
            case RequestType.WRITE_ZEROES:
                self.model.set_zeroes(request.blocks)
            case _:
                self._allow(request)

    def _allow(self, request: _Request) -> None:
        """The request may have had its effect, or not, or in part."""
        if request.request_type is RequestType.OUT:
            self.model.allow_version(request.blocks, request.version)
        elif request.request_type in (RequestType.DISCARD, RequestType.WRITE_ZEROES):
            self.model.allow_zeroes(request.blocks)

    def note_faults(self, faults: list[str]) -> None:
        """Count faults, and keep the first of them."""
        self.fault_count += len(faults)
        self.faults.extend(faults[: MAX_FAULTS - len(self.faults)])
