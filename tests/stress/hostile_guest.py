"""A guest and its front end, which may do anything on any queue at any time, and a model of its disk."""

import dataclasses
import os
import random
from collections import deque

from ringblk.engine.devices.features import F_EVENT_IDX
from ringblk.engine.vhost_user.messages import InflightDescription
from ringblk.workers.backends.topology import SECTOR_BYTES
from tests.rigs.crash_load import SectorModel, check_sector
from tests.rigs.engine_rig import RINGS_BYTES, RawFrontend
from tests.rigs.inline_device import GPA, IN, IOERR, OK, UNTOUCHED
from tests.rigs.mock_driver import DESC_F_NEXT
from tests.stress.counts import counts
from tests.stress.request_shape import Layout, Shape, lay_out
from tests.stress.stress_engine import NUM_SECTORS, StressEngine
from tests.stress.stress_queue import StressQueue
from tests.stress.stress_request import Ask, Expected, StressRequest, good_ask

SLAB_BYTES = 12 << 10
NUM_SLABS = 40
MAX_SECTORS = 16
_FIRST_SLAB = 4 * RINGS_BYTES
_RAM_BYTES = _FIRST_SLAB + NUM_SLABS * SLAB_BYTES
_OUTSIDE_GPA = GPA + (1 << 40)
_NUM_REGIONS = 7  # with the rings' own 8, as many as a memory table takes
_GUARD_S = 240.0

CORRUPTIONS = (
    "too many",
    "backwards",
    "head out of range",
    "next out of range",
    "loop",
)


class HostileGuest:
    """Drives an engine. What it says of itself is checked at every request that comes back."""

    def __init__(
        self, engine: StressEngine, *, queue_size: int, event_idx: bool, start_idx: int, seed: int
    ) -> None:
        self.engine = engine
        self.event_idx = event_idx
        self.model = SectorModel(NUM_SECTORS)
        self.missing_regions: set[int] = set()
        self._random = random.Random(seed)
        self._stamp = 0
        self._slabs = deque(range(NUM_SLABS))
        cuts = sorted(self._random.sample(range(_FIRST_SLAB + 1, _RAM_BYTES), _NUM_REGIONS - 1))
        self.frontend = RawFrontend(
            engine.connect(),
            num_queues=engine.kind.num_queues,
            queue_size=queue_size,
            ram_bytes=_RAM_BYTES,
            cuts=[_FIRST_SLAB, *cuts],
            start_idx=start_idx,
        )
        self.queues = [StressQueue(raw, index, event_idx) for index, raw in enumerate(self.frontend.queues)]
        self._inflight: tuple[InflightDescription, int] | None = None
        self._set_up()

    # The session.

    def _set_up(self) -> None:
        """Negotiate, hand over what there is of memory, start all queues where they are."""
        connection = self.frontend.connection
        connection.socket.settimeout(_GUARD_S)
        offered = connection.get_features()
        self.frontend.negotiate(offered if self.event_idx else offered & ~F_EVENT_IDX)
        for index, region in enumerate(self.frontend.ram.regions):
            if index not in self.missing_regions:
                connection.add_region(region, self.frontend.ram.fd)
        if self._inflight is None:
            queue_size = self.queues[0].driver.queue_size
            self._inflight = connection.get_inflight(len(self.queues), queue_size)
        connection.set_inflight(*self._inflight)
        for queue in self.queues:
            self.start_queue(queue)

    def start_queue(self, queue: StressQueue) -> None:
        """Start a queue where its used ring is; whatever was offered is looked at."""
        self.frontend.start_queue(queue.queue_index)
        queue.is_enabled = True
        queue.kick(always=True)

    def follow_engine(self) -> None:
        """The engine was killed: have the next one finish what was in flight."""
        self.frontend.connection.close()
        self.frontend.connect(self.engine.connect())
        self._set_up()

    def connect_anew(self, idx: int) -> None:
        """Hang up in the middle of everything and begin with new rings; what was in flight is forgotten."""
        self.frontend.connection.close()
        # Once the next session is served the former one's requests are done, or never will be.
        self.frontend.connect(self.engine.connect())
        self.frontend.connection.socket.settimeout(_GUARD_S)
        self.frontend.connection.get_features()
        self._begin_anew(idx)

    def reset_device(self, idx: int) -> None:
        """RESET_DEVICE in the middle of everything."""
        self.frontend.connection.reset_device()
        for region_index, region in enumerate(self.frontend.ram.regions):
            if region_index not in self.missing_regions:
                self.frontend.connection.remove_region(region)
        self._begin_anew(idx)

    def _begin_anew(self, idx: int) -> None:
        for queue in self.queues:
            self.collect(queue)
            self._leave_all(queue)
            queue.begin_anew(idx)
        self._close_inflight()
        self._set_up()

    # Requests.

    def send(self, queue: StressQueue, ask: Ask, shape: Shape, *, outside: bool = False) -> None:
        """Offer a request as soon as there is room for it; no kick yet."""
        driver = queue.driver
        shape = Shape(shape.cuts[: driver.queue_size - 3], shape.direct_count, shape.gap_bytes)
        slab_gpa = self._free_slab(queue)
        layout = lay_out(driver, slab_gpa, SLAB_BYTES, shape, ask.readable, ask.writable_bytes)
        if outside:
            layout.pieces[0] = dataclasses.replace(layout.pieces[0], gpa=_OUTSIDE_GPA)
        while not queue.has_room(layout.entry_count):
            self._wait_some(queue, "room for another")
        indices = queue.take_indices(layout.entry_count)
        request = StressRequest(ask, layout, indices, slab_gpa, self._expect(ask, layout))
        request.begin(self.model)
        queue.offer(request)
        layout.snapshot = bytearray(driver.read(slab_gpa, SLAB_BYTES))
        counts["requests"] += 1
        counts["faults"] += request.expected.status != OK

    def new_stamp(self) -> int:
        """What tells one write from all others."""
        self._stamp += 1
        return self._stamp

    def _free_slab(self, queue: StressQueue) -> int:
        while not self._slabs:
            busy = next((each for each in (queue, *self.queues) if each.inflight), None)
            assert busy is not None, "slabs were lost"
            self._wait_some(busy, "free memory")
        return GPA + _FIRST_SLAB + self._slabs.popleft() * SLAB_BYTES

    def _expect(self, ask: Ask, layout: Layout) -> Expected:
        """What the device must make of it, with the memory that there is now."""
        has_table = layout.table_gpa is not None and not self._is_mapped(layout.table_gpa, layout.table_bytes)
        seen = layout.pieces[: layout.direct_count] if has_table else layout.pieces
        is_bad = has_table or not all(self._is_mapped(each.gpa, each.length_bytes) for each in seen)
        last = next((each for each in reversed(seen) if each.is_writable and each.length_bytes), None)
        status_gpa = last.gpa + last.length_bytes - 1 if last else None
        if status_gpa is None or not self._is_mapped(status_gpa, 1):
            return Expected(0, UNTOUCHED, None)
        if is_bad:
            return Expected(1, IOERR, status_gpa)
        used_bytes = ask.writable_bytes if ask.status == OK else 1
        return Expected(used_bytes, ask.status, status_gpa)

    def _is_mapped(self, gpa: int, length_bytes: int) -> bool:
        if length_bytes == 0:
            return True
        if gpa >= GPA + _RAM_BYTES:
            return False
        regions = self.frontend.ram.regions
        return not any(
            gpa < regions[index].gpa + regions[index].size_bytes and regions[index].gpa < gpa + length_bytes
            for index in self.missing_regions
        )

    def finish(self, queue: StressQueue) -> None:
        """Wait until everything that was offered has come back."""
        self._mend(queue)
        queue.kick()
        while queue.inflight:
            self._wait_some(queue, "finish")

    def _wait_some(self, queue: StressQueue, why: str) -> None:
        self._mend(queue)
        if not queue.inflight:
            return  # it was broken, and begins anew
        queue.kick()
        for request, used_bytes in queue.wait(f"{why}\n{self.engine.process.log}"):
            self._end(queue, request, used_bytes)

    def _mend(self, queue: StressQueue) -> None:
        if queue.is_broken:
            self.restart_queue(queue)
        if not queue.is_enabled:
            self.set_enabled(queue, True)

    def collect(self, queue: StressQueue) -> None:
        """Take what has come back by now."""
        for request, used_bytes in queue.take():
            self._end(queue, request, used_bytes)

    def _end(self, queue: StressQueue, request: StressRequest, used_bytes: int) -> None:
        request.end(self.model, queue.driver, used_bytes)
        self._free(request)

    def _leave_all(self, queue: StressQueue) -> None:
        for request in queue.inflight.values():
            request.leave(self.model)
            self._free(request)
        queue.inflight.clear()

    def _free(self, request: StressRequest) -> None:
        self._slabs.append((request.slab_gpa - GPA - _FIRST_SLAB) // SLAB_BYTES)

    # What happens to queues.

    def set_enabled(self, queue: StressQueue, enabled: bool) -> None:
        """SET_VRING_ENABLE: what was popped goes on, nothing else is begun."""
        self.frontend.connection.set_vring_enable(queue.queue_index, enabled)
        queue.is_enabled = enabled
        if enabled:
            queue.kick(always=True)

    def stop_and_start(self, queue: StressQueue) -> None:
        """GET_VRING_BASE: what was popped is done when it answers; the rest is done after the new start."""
        if queue.is_broken:
            self.restart_queue(queue)
            return
        base = self.frontend.connection.get_vring_base(queue.queue_index)
        assert base == queue.driver.used_idx
        self.collect(queue)
        self.start_queue(queue)

    def restart_queue(self, queue: StressQueue) -> None:
        """GET_VRING_BASE, and new rings: what was not popped by then never will be."""
        self.frontend.connection.get_vring_base(queue.queue_index)
        self.collect(queue)
        self._leave_all(queue)
        queue.begin_anew(queue.driver.used_idx)
        self.start_queue(queue)

    def corrupt(self, queue: StressQueue, how: str) -> None:
        """Write what no driver may; the queue breaks, and rests until it is stopped."""
        while not queue.has_room(2):
            self._wait_some(queue, "room for a corruption")
        self._mend(queue)
        one, other = queue.take_indices(2)
        driver = queue.driver
        match how:
            case "too many":
                driver.avail_idx += driver.queue_size + 1
            case "backwards":
                driver.avail_idx = driver.used_idx - 1
            case "head out of range":
                driver.offer(driver.queue_size + one)
            case "next out of range":
                driver.descriptor(one, GPA, 16, DESC_F_NEXT, driver.queue_size)
                driver.offer(one)
            case _:
                driver.descriptor(one, GPA, 16, DESC_F_NEXT, other)
                driver.descriptor(other, GPA, 16, DESC_F_NEXT, one)
                driver.offer(one)
        queue.kick(always=True)
        queue.wait_broken()
        queue.is_broken = True
        counts["faults"] += 1

    # Memory.

    def remove_region(self, index: int) -> None:
        """Take memory away that requests may be using; what was popped by then is done."""
        if index in self.missing_regions:
            return
        self._note_memory_change(index)
        self.frontend.connection.remove_region(self.frontend.ram.regions[index])
        self.missing_regions.add(index)

    def add_region(self, index: int) -> None:
        """Give it back."""
        if index not in self.missing_regions:
            return
        self._note_memory_change(index)
        self.frontend.connection.add_region(self.frontend.ram.regions[index], self.frontend.ram.fd)
        self.missing_regions.discard(index)

    def replace_memory(self) -> None:
        """SET_MEM_TABLE with all there is, as QEMU sends it at any time."""
        for index in self.missing_regions:
            self._note_memory_change(index)
        ram = self.frontend.ram
        self.frontend.connection.set_mem_table([(region, ram.fd) for region in ram.regions])
        self.missing_regions.clear()

    def _note_memory_change(self, index: int) -> None:
        region = self.frontend.ram.regions[index]
        for queue in self.queues:
            for request in queue.inflight.values():
                start_gpa = request.slab_gpa
                if start_gpa < region.gpa + region.size_bytes and region.gpa < start_gpa + SLAB_BYTES:
                    request.may_fail = True

    @property
    def num_regions(self) -> int:
        """Regions that may come and go; the first, the rings', may not."""
        return len(self.frontend.ram.regions)

    # The whole of it.

    def prove_alive(self) -> None:
        """Something is read on each queue that works, on one at least, which is progress."""
        working = [queue for queue in self.queues if not queue.is_broken and queue.is_enabled]
        for queue in working or self.queues[:1]:
            self.send(queue, good_ask(IN, queue.queue_index, 1, 0), Shape())
            self.finish(queue)

    def check(self) -> None:
        """Everything has come back, and every sector is as it may be: through the engine and in the image."""
        for queue in self.queues:
            self.finish(queue)
        self.replace_memory()
        for sector in range(0, NUM_SECTORS, MAX_SECTORS):
            self.send(self.queues[0], good_ask(IN, sector, MAX_SECTORS, 0), Shape())
        self.finish(self.queues[0])
        image = self.engine.read_image()
        for sector in range(NUM_SECTORS):
            piece = image[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES]
            check_sector(sector, piece, self.model.possible(sector), "image")
        self.engine.check()

    def _close_inflight(self) -> None:
        if self._inflight is not None:
            os.close(self._inflight[1])
            self._inflight = None

    def close(self) -> None:
        """Hang up."""
        self.frontend.close()
        self._close_inflight()
