"""A whole block device in this process: the real dispatch loop on a mock driver's queue, no worker.

For tests of what a request does: a request costs microseconds here. Guest memory is made of adjacent regions
that are cut at odd places, so that buffers, tables and status bytes straddle them.
"""

import itertools
import mmap
import os
import uuid
from collections.abc import Sequence
from types import TracebackType

from ringblk.engine.devices.io_plan import EVERYTHING_NS
from ringblk.engine.devices.queue_fds import QueueFds
from ringblk.engine.dispatcher.cpu_placement import CpuPlacement
from ringblk.engine.dispatcher.dispatch_loop import BROKEN, DispatchLoop
from ringblk.engine.dispatcher.handover import Handover
from ringblk.engine.dispatcher.idle_poll import IdlePoll
from ringblk.engine.dispatcher.inline_gate import InlineGate
from ringblk.engine.dispatcher.queue_table import QueueTable
from ringblk.engine.dispatcher.recovery import Recovery
from ringblk.engine.dispatcher.ring import DispatcherRing
from ringblk.engine.dispatcher.throttle import Throttle
from ringblk.shm.memory.guest_memory import GuestMemory
from ringblk.shm.memory.region import MemoryRegion
from ringblk.shm.queues.inflight_region import queue_region_bytes
from ringblk.shm.queues.split.virtqueue import SplitVirtqueue
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.topology import SECTOR_BYTES
from ringblk.workers.block.executor import BlockExecutor
from ringblk.workers.block.parser import OPERATION_NAMES, BlockParser
from ringblk.workers.block.protocol import RequestStatus, RequestType
from ringblk.workers.block.state import publish_block_state
from tests.rigs.mock_driver import MockDriver

GPA = 0x4000_0000
UVA_OFFSET = 0x7000_0000_0000
PAGE = mmap.PAGESIZE
OK, IOERR, UNSUPP, UNTOUCHED = RequestStatus
IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = RequestType


class GuestRam:
    """One memfd, shown to the device as adjacent regions that end at the given offsets."""

    def __init__(self, size_bytes: int, cuts: Sequence[int] = ()) -> None:
        self.fd = os.memfd_create("guest-ram")
        os.ftruncate(self.fd, size_bytes)
        self.mapping = mmap.mmap(self.fd, size_bytes)
        self.view = memoryview(self.mapping)
        edges = [0, *sorted(cuts), size_bytes]
        self.regions = [
            MemoryRegion(GPA + start, end - start, GPA + start + UVA_OFFSET, start)
            for start, end in itertools.pairwise(edges)
        ]

    def guest_memory(self) -> GuestMemory:
        memory = GuestMemory()
        for region_index, region in enumerate(self.regions):
            memory.add(region_index, region, self.fd, region_index + 1)
        return memory

    def close(self) -> None:
        self.view.release()
        self.mapping.close()
        os.close(self.fd)


class InlineDevice:
    """A block device on `backend` with one queue, driven by `driver`; requests run when `run` is called."""

    def __init__(
        self,
        backend: NativeBackend,
        *,
        queue_size: int = 16,
        event_idx: bool = False,
        chain_limit: int = 128,
        ram_bytes: int = 1 << 20,
        cuts: Sequence[int] = (),
        drive_id: bytes = b"drive",
        is_read_only: bool = False,
        durable_writes: bool = False,
        is_flush_offered: bool = True,
        is_discard_offered: bool = True,
        poll_ns: int = 0,
        inline_limit_ns: int = EVERYTHING_NS,
    ) -> None:
        self.ram = GuestRam(ram_bytes, cuts)
        self.driver = MockDriver(self.ram.view, GPA, queue_size, event_idx=event_idx)
        self.state = StateSegment.create(
            f"ringblk-test-{uuid.uuid4().hex}", 64, chain_limit, "block", OPERATION_NAMES
        )
        self.state.open_slots()
        publish_block_state(
            self.state,
            capacity_sectors=backend.size_bytes // SECTOR_BYTES,
            is_read_only=is_read_only,
            durable_writes=durable_writes,
            is_flush_offered=is_flush_offered,
            is_discard_offered=is_discard_offered,
        )
        self.memory = self.ram.guest_memory()
        self.executor = BlockExecutor(self.state, self.memory, backend, drive_id)
        self.eventfd = os.eventfd(0, os.EFD_NONBLOCK)
        self.kick_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.call_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.table = QueueTable(self.state, self.eventfd)
        if self.executor.outcome_fd >= 0:
            self.table.watch(self.executor.outcome_fd)
        self.loop = DispatchLoop(
            self.state,
            self.memory,
            BlockParser(self.state, self.memory, backend.block_size_bytes),
            self.executor,
            Handover(self.state),
            self.table,
            Throttle(self.state, self.state.rate_limit, False),
            InlineGate(inline_limit_ns),
            DispatcherRing(self.state, self.executor, None),
            IdlePoll(poll_ns),
            CpuPlacement([]),
        )
        Recovery(self.loop).take_over(False)  # every slot is free
        self.loop.reports_progress = True
        driver = self.driver
        self.virtqueue = SplitVirtqueue(
            0,
            queue_size,
            self.memory,
            driver.desc_gpa + UVA_OFFSET,
            driver.avail_gpa + UVA_OFFSET,
            driver.used_gpa + UVA_OFFSET,
            event_idx,
            chain_limit,
        )
        self.virtqueue.resume(bytearray(queue_region_bytes(queue_size)), 0, self.virtqueue.used_idx)
        self.loop.add_queue(self.virtqueue, QueueFds(self.kick_fd, self.call_fd), True)

    def wake(self) -> None:
        """End the loop's sleep."""
        os.eventfd_write(self.eventfd, 1)

    def run(self) -> list[tuple[int, int]]:
        """Let the device serve what was offered; (head, used length) of what came back. Broken: what did."""
        offered = (self.driver.avail_idx - self.driver.next_used) & 0xFFFF
        used: list[tuple[int, int]] = []
        while len(used) < offered:
            event = self.loop.run()
            used += self.driver.used()
            self.executor.take_error()
            if event == BROKEN:
                break
        return used

    def request(
        self,
        request_type: int,
        sector: int = 0,
        *,
        data: bytes = b"",
        read_bytes: int = 0,
        cuts: Sequence[int] = (),
        indirect: bool | int = False,
    ) -> tuple[int, int, bytes]:
        """Send one request cut into descriptors at these places of the whole; status, used length, data."""
        readable = request_type.to_bytes(4, "little") + bytes(4) + sector.to_bytes(8, "little") + data
        driver = self.driver
        driver.forget_places()
        readable_gpa = driver.place(readable, 1)
        writable_gpa = driver.place(b"\xaa" * read_bytes + b"\xff", 1)
        pieces = cut_pieces(
            [(readable_gpa, len(readable), False), (writable_gpa, read_bytes + 1, True)], cuts
        )
        if not isinstance(indirect, bool):
            indirect = min(indirect, len(pieces) - 1)  # an empty table is no table
        driver.offer(driver.make_chain(pieces, indirect=indirect))
        ((_, used_length),) = self.run()
        written = driver.read(writable_gpa, read_bytes + 1)
        return written[-1], used_length, written[:-1]

    def close(self) -> None:
        self.table.remove_queue(0)
        self.state.close()
        for fd in (self.eventfd, self.kick_fd, self.call_fd):
            os.close(fd)
        self.ram.close()

    def __enter__(self) -> "InlineDevice":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def cut_pieces(pieces: Sequence[tuple[int, int, bool]], cuts: Sequence[int]) -> list[tuple[int, int, bool]]:
    """The pieces, cut further at these offsets from the beginning of the first."""
    done: list[tuple[int, int, bool]] = []
    start = 0
    for gpa, length, writable in pieces:
        inner = sorted({cut - start for cut in cuts if start < cut < start + length})
        edges = [0, *inner, length]
        done += [(gpa + low, high - low, writable) for low, high in itertools.pairwise(edges)]
        start += length
    return done
