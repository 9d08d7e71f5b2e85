"""The front end: a virtio block driver for Python programs.

It makes guest memory, talks vhost-user to a back end, and drives the back end's queues itself, where a
hypervisor would leave that to its guest. It works with any vhost-user block back end.

    with Frontend(engine_command("--blk-file=disk.img")) as disk:
        disk.write(0, b"x" * 4096)
        disk.flush()

read(), write() and the like do one thing and wait for it. The batched form (submit_read() and the like,
then submit(), then poll()) keeps many requests in flight on buffers that allocate() gives.
"""

import contextlib
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import NoReturn

from ringblk.engine.frontend.buffer import Buffer
from ringblk.engine.frontend.memory import FrontendMemory
from ringblk.engine.frontend.parts import ranges, staged_parts
from ringblk.engine.frontend.process_bound import abandon_in_forked_child
from ringblk.engine.frontend.queue import FrontendQueue, queue_bytes
from ringblk.engine.frontend.queues import OpenQueues
from ringblk.engine.frontend.request import BackendGone, Completion, RequestFailed
from ringblk.engine.frontend.session import FrontendSession
from ringblk.shm.layout.sizes import MAX_QUEUE_SIZE
from ringblk.workers.backends.topology import SECTOR_BYTES
from ringblk.workers.block.config_space import WRITEBACK_OFFSET_BYTES, BlockConfigSpace
from ringblk.workers.block.protocol import DRIVE_ID_BYTES, F_FLUSH, SEGMENT_F_UNMAP, RequestType

GUEST_MEMORY_GPA = 0x1_0000_0000
MAX_TRANSFER_BYTES = 1 << 20
"""The most that read() and write() move with one request."""

_MAX_RANGE_SECTORS = (1 << 32) - 1
_NS_PER_S = 1_000_000_000


class Frontend:
    """A disk behind a vhost-user back end.

    `backend` is the path of a socket that one listens on, or the command that starts one, in which `{fd}`,
    `{listen_fd}` or `{socket_path}` stands for the way to it (see BackendProcess; engine_command() makes
    the command of this package's own engine).

    `memory_size_bytes` is guest memory for buffers. `queue_size` is a power of two up to 32768; without
    `indirect` a read or write takes three entries of it. With `polling`, waiting spins, which is faster
    where a core is free for it; without, it sleeps until the back end calls. `request_timeout_s` limits
    how long the constructor, read() and all else that waits may take (None: no request ends by itself);
    past it they raise TimeoutError. After one from anything but a request, reconnect().

    Raises BackendGone when there is no back end, BackendRefused when it will not do what is asked, and
    OSError when there is not enough shared memory. One thread uses a queue at a time; all else may be used
    by any. It belongs to the process that made it: in a forked child it is closed, without the parent's
    noticing. Use after close() is a ValueError.
    """

    def __init__(
        self,
        backend: str | os.PathLike[str] | Sequence[str],
        *,
        memory_size_bytes: int = 16 << 20,
        num_queues: int = 1,
        queue_size: int = 128,
        indirect: bool = True,
        event_idx: bool = True,
        polling: bool = False,
        request_timeout_s: float | None = None,
    ) -> None:
        self.request_timeout_s = request_timeout_s
        self._backend = backend
        self._queues = OpenQueues()
        self._closing = contextlib.ExitStack()
        deadline_s = self._deadline_s()
        with contextlib.ExitStack() as undo:
            one_queue_bytes = -(-queue_bytes(queue_size) // 64) * 64
            self._memory = FrontendMemory(memory_size_bytes + num_queues * one_queue_bytes, GUEST_MEMORY_GPA)
            undo.callback(self._memory.close)
            undo.callback(self._queues.clear)  # which hold it
            self._session = FrontendSession(
                backend, indirect=indirect, event_idx=event_idx, deadline_s=deadline_s
            )
            undo.callback(self._session.close)
            with self._explained(), self._session.connection.within(deadline_s):
                self._session.negotiate(num_queues)
                for queue_index in range(num_queues):
                    self._queues[queue_index] = FrontendQueue(
                        self._memory.mapping,
                        self._memory.gpa,
                        queue_index,
                        queue_size,
                        offset_bytes=self._memory.allocate(one_queue_bytes, 64).gpa - self._memory.gpa,
                        indirect=self._session.indirect,
                        event_idx=self._session.event_idx,
                        polling=polling,
                    )
                self._session.start([self._memory], self.queues)
            self._closing = undo.pop_all()
        abandon_in_forked_child(self, Frontend._abandon)

    def _deadline_s(self) -> float:
        """When something that begins now must be over, on the monotonic clock."""
        return math.inf if self.request_timeout_s is None else time.monotonic() + self.request_timeout_s

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """BackendGone says why, where that is known."""
        try:
            yield
        except BackendGone as gone:
            self._raise_explained(gone)

    def _raise_explained(self, gone: BackendGone) -> NoReturn:
        explained = self._session.explain()
        if explained is None:
            raise gone
        raise explained from gone

    # About the disk.

    @property
    def config(self) -> BlockConfigSpace:
        """The config space as it was at the start, or at the last refresh_config()."""
        return self._session.config

    def refresh_config(self) -> BlockConfigSpace:
        """Read the config space again. After a resize the batched form knows the new size only then."""
        self._queues.check_open()
        with self._explained(), self._session.connection.within(self._deadline_s()):
            return self._session.read_config()

    @property
    def capacity_bytes(self) -> int:
        """The disk's size."""
        return self.config.capacity * SECTOR_BYTES

    @property
    def features(self) -> int:
        """The negotiated virtio features, as a mask."""
        return self._session.features

    @property
    def num_queues(self) -> int:
        """How many queues this front end uses."""
        return len(self._queues)

    @property
    def queues(self) -> list[FrontendQueue]:
        """The queues themselves, for native loops (load_generator.py). They end with the front end."""
        return list(self._queues.values())

    @property
    def backend_pid(self) -> int | None:
        """The process id of a back end that was started from a command."""
        return self._session.backend_pid

    def set_write_cache(self, enabled: bool) -> None:
        """Turn the disk's write-back cache on or off (CONFIG_WCE). Off, a write that is done is durable."""
        self._queues.check_open()
        with self._explained(), self._session.connection.within(self._deadline_s()):
            self._session.connection.set_config(WRITEBACK_OFFSET_BYTES, bytes([enabled]))
            self._session.read_config()

    # One thing at a time.

    def read(self, offset_bytes: int, size_bytes: int, *, queue_index: int = 0) -> bytes:
        """Bytes of the disk; both numbers are multiples of 512.

        This and the methods below raise RequestFailed, BackendGone, TimeoutError, DeviceBroken,
        QueueFull where the batched form has filled the queue, and ValueError, before anything is done, for
        what is no multiple of 512 or lies outside of the disk.
        """
        self._check_span(queue_index, offset_bytes, size_bytes)
        pieces = []
        with self._staging(size_bytes) as staging:
            for start, buffer in staged_parts(staging, size_bytes):
                self._finish(self.submit_read(offset_bytes + start, buffer, queue_index=queue_index))
                pieces.append(bytes(buffer))
        return b"".join(pieces)

    def write(self, offset_bytes: int, data: bytes | bytearray | memoryview, *, queue_index: int = 0) -> None:
        """Write data, a multiple of 512 bytes long, at a multiple of 512."""
        source = memoryview(data).cast("B")
        self._check_span(queue_index, offset_bytes, len(source))
        with self._staging(len(source)) as staging:
            for start, buffer in staged_parts(staging, len(source)):
                buffer.view[:] = source[start : start + buffer.size_bytes]
                self._finish(self.submit_write(offset_bytes + start, buffer, queue_index=queue_index))

    def flush(self, *, queue_index: int = 0) -> None:
        """Make durable every write that was done before this; they are already where no FLUSH is offered."""
        if not self._session.features & F_FLUSH:
            return  # virtio 1.2, 5.2.6.1: not to be sent then
        self._finish(self.submit_flush(queue_index=queue_index))

    def discard(self, offset_bytes: int, size_bytes: int, *, queue_index: int = 0) -> None:
        """Tell the disk that these bytes are not needed; what they read as afterwards is its affair."""
        self._check_span(queue_index, offset_bytes, size_bytes)
        limit = self.config.max_discard_sectors or _MAX_RANGE_SECTORS
        for start, part_bytes in ranges(size_bytes, limit * SECTOR_BYTES):
            self._finish(self.submit_discard(offset_bytes + start, part_bytes, queue_index=queue_index))

    def write_zeroes(
        self, offset_bytes: int, size_bytes: int, *, unmap: bool = False, queue_index: int = 0
    ) -> None:
        """Make these bytes zero; with unmap the disk may deallocate them."""
        self._check_span(queue_index, offset_bytes, size_bytes)
        limit = self.config.max_write_zeroes_sectors or _MAX_RANGE_SECTORS
        for start, part_bytes in ranges(size_bytes, limit * SECTOR_BYTES):
            self._finish(
                self.submit_write_zeroes(
                    offset_bytes + start, part_bytes, unmap=unmap, queue_index=queue_index
                )
            )

    def get_id(self, *, queue_index: int = 0) -> str:
        """The drive's id, up to 20 characters."""
        with self.allocate(DRIVE_ID_BYTES) as buffer:
            buffer.view[:] = bytes(DRIVE_ID_BYTES)
            self._finish(
                self.submit_request(
                    RequestType.GET_ID, 0, buffer, device_writes=True, queue_index=queue_index
                )
            )
            return bytes(buffer).split(b"\0")[0].decode("ascii", "replace")

    def _check_span(self, queue_index: int, offset_bytes: int, size_bytes: int) -> None:
        queue = self._queues[queue_index]
        if offset_bytes + size_bytes > queue.capacity_bytes:
            self.refresh_config()  # it may have grown
        queue.check_span(offset_bytes, size_bytes)

    def _staging(self, size_bytes: int) -> Buffer:
        return self.allocate(max(1, min(size_bytes, MAX_TRANSFER_BYTES)), 4096)

    def _finish(self, token: int) -> None:
        completion = self.wait(token, self.request_timeout_s)
        if completion.status:
            raise RequestFailed(completion.status)

    # Many at once.

    def allocate(self, size_bytes: int, align: int = SECTOR_BYTES) -> Buffer:
        """Guest memory for the data of requests. Raises MemoryError when there is not that much free."""
        return self._memory.allocate(size_bytes, align)

    def submit_read(self, offset_bytes: int, buffer: Buffer, *, queue_index: int = 0) -> int:
        """Add a read that fills the buffer; its token.

        Nothing of it reaches the back end before submit(), poll() or wait(). Raises QueueFull when there is
        no room: poll() first; ValueError as read(). The buffer is the request's until its completion is
        there.
        """
        return self._queues[queue_index].start_data(RequestType.IN, offset_bytes, buffer)

    def submit_write(self, offset_bytes: int, buffer: Buffer, *, queue_index: int = 0) -> int:
        """Add a write of the buffer's bytes; as submit_read()."""
        return self._queues[queue_index].start_data(RequestType.OUT, offset_bytes, buffer)

    def submit_flush(self, *, queue_index: int = 0) -> int:
        """Add a flush; as submit_read()."""
        return self.submit_request(RequestType.FLUSH, 0, queue_index=queue_index)

    def submit_discard(self, offset_bytes: int, size_bytes: int, *, queue_index: int = 0) -> int:
        """Add a discard of one range; as submit_read()."""
        return self._queues[queue_index].start_span(RequestType.DISCARD, offset_bytes, size_bytes, 0)

    def submit_write_zeroes(
        self, offset_bytes: int, size_bytes: int, *, unmap: bool = False, queue_index: int = 0
    ) -> int:
        """Add a write of zeroes to one range; as submit_read()."""
        flags = SEGMENT_F_UNMAP if unmap else 0
        return self._queues[queue_index].start_span(RequestType.WRITE_ZEROES, offset_bytes, size_bytes, flags)

    def submit_request(
        self,
        request_type: int,
        sector: int,
        buffer: Buffer | None = None,
        *,
        device_writes: bool = False,
        queue_index: int = 0,
    ) -> int:
        """Add a request of any type, known or not, for any sector, with these bytes as its data.

        As submit_read(), but what makes sense is for the back end to say.
        """
        return self._queues[queue_index].start(request_type, sector, buffer, device_writes)

    def submit_many(
        self, requests: Iterable[tuple[RequestType, int, Buffer]], *, queue_index: int = 0
    ) -> list[int]:
        """Add reads and writes until the queue is full, and submit() them; their tokens.

        Each is (RequestType.IN or OUT, offset_bytes, buffer). After a ValueError none was added.
        """
        tokens = self._queues[queue_index].start_many(requests)
        self._queues[queue_index].kick()
        return tokens

    def submit(self, *, queue_index: int = 0) -> None:
        """Let the back end see what was added, and kick it if it asked for that."""
        self._queues[queue_index].kick()

    def poll(
        self,
        min_count: int = 1,
        timeout_s: float | None = None,
        *,
        max_count: int = MAX_QUEUE_SIZE,
        queue_index: int = 0,
    ) -> list[Completion]:
        """Submit what was added and take completions: at least min_count, if as many are in flight.

        Fewer when the time is over. Failed requests are completions too: look at `status`. Raises
        BackendGone when the back end has gone and no completion of it is left, and DeviceBroken when it
        writes nonsense to the ring.
        """
        queue = self._queues[queue_index]
        queue.kick()
        try:
            return queue.poll(min_count, max_count, _nanoseconds(timeout_s))
        except BackendGone as gone:
            self._raise_explained(gone)

    def wait(self, token: int, timeout_s: float | None = None) -> Completion:
        """The completion of one request; those of others are kept for poll(). Raises TimeoutError."""
        queue = self._queues[token >> 48]
        queue.kick()
        try:
            completion = queue.wait_for(token, _nanoseconds(timeout_s))
        except BackendGone as gone:
            self._raise_explained(gone)
        if completion is None:
            raise TimeoutError(f"no completion in {timeout_s} s")
        return completion

    def inflight_count(self, *, queue_index: int = 0) -> int:
        """How many requests are with the back end, or added and not yet submitted."""
        return self._queues[queue_index].virtqueue.inflight_count

    # Its life.

    def reconnect(self, backend: str | os.PathLike[str] | Sequence[str] | None = None) -> None:
        """Go on with a new back end: same memory, same rings, and the requests in flight are finished there.

        The new one is what the first was made from, unless another is given. Nothing may be left of the old
        one: it is stopped if this front end started it, else the caller knows that it has ended. A back end
        with INFLIGHT_SHMFD gets the in-flight region back; to one without, every request in flight is
        offered again. Raises as the constructor; a reconnect() that failed can be tried again.
        """
        self._queues.check_open()
        deadline_s = self._deadline_s()
        self._session.disconnect(deadline_s)
        for queue in self.queues:
            queue.stash_ready()
        with self._explained():
            self._session.reconnect(self._backend if backend is None else backend, deadline_s)

    def close(self) -> None:
        """Stop the queues, which waits for requests in flight, end the back end if it was started here.

        May be called again. Buffers that are still held keep their bytes.
        """
        if self._queues.closed_because:
            return
        self._queues.close("the front end is closed")  # they hold the memory that is about to be unmapped
        with (
            self._closing,
            contextlib.suppress(BackendGone, TimeoutError),
            self._session.connection.within(self._deadline_s()),
        ):
            self._session.stop()

    def _abandon(self) -> None:
        """In a forked child: session, rings and back end are the parent's; nothing is said to anyone."""
        self._queues.close(f"the front end belongs to process {os.getppid()}, which forked this one")
        self._closing.pop_all()
        self._session.abandon()
        self._memory.abandon()

    def __enter__(self) -> "Frontend":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _nanoseconds(timeout_s: float | None) -> int | None:
    return None if timeout_s is None else max(0, int(timeout_s * _NS_PER_S))
