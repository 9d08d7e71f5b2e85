"""A state machine: a front end's vhost-user messages in any order, against a model of what is answered."""

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ringblk import BackendRefused
from ringblk.engine.devices.features import F_EVENT_IDX
from ringblk.engine.frontend.connection import FrontendConnection
from ringblk.engine.vhost_user.codes import FrontendRequest, ProtocolFeature
from ringblk.engine.vhost_user.messages import VringAddress
from ringblk.workers.block.config_space import WRITEBACK_OFFSET_BYTES
from tests.rigs.engine_rig import Engine, RawFrontend
from tests.rigs.inline_device import IN, OK, OUT, UVA_OFFSET
from tests.stress.counts import counts

SET_STATUS, GET_STATUS = FrontendRequest.SET_STATUS, FrontendRequest.GET_STATUS
NUM_QUEUES = 2
QUEUE_SIZE = 16
NUM_SECTORS = 64
MAX_PENDING = QUEUE_SIZE // 2
DATA_REGION_OFFSET = 0x80000  # the rings, and what requests are made of, lie before it
PROTOCOL_FEATURES = ProtocolFeature(
    ProtocolFeature.MQ
    | ProtocolFeature.REPLY_ACK
    | ProtocolFeature.CONFIG
    | ProtocolFeature.CONFIGURE_MEM_SLOTS
    | ProtocolFeature.RESET_DEVICE
    | ProtocolFeature.STATUS
)
QUEUES = st.integers(0, NUM_QUEUES - 1)


@dataclass
class Pending:
    """A request that was offered: where the device writes, and the sector and bytes that it is about."""

    writable_gpa: int
    is_read: bool
    sector: int
    data: bytes


@dataclass
class Ring:
    """What the back end has been told of a ring, and what it owes."""

    has_size: bool = False
    has_address: bool = False
    has_kick: bool = False
    enabled: bool = False
    running: bool = False
    base: int = 0
    pending: dict[int, Pending] = field(default_factory=dict)  # by head

    def settle(self) -> None:
        """It starts as soon as it has everything; a ring that runs is never started again."""
        self.running |= self.has_size and self.has_address and self.has_kick and self.enabled

    def stop(self, next_avail: int) -> None:
        """As GET_VRING_BASE leaves it: a new kick fd starts it again."""
        self.running = self.has_kick = False
        self.base = next_avail

    def clear(self) -> None:
        """As a reset leaves it."""
        self.stop(0)
        self.has_size = self.has_address = self.enabled = False


class SessionMachine(RuleBasedStateMachine):
    """A front end that says what it likes, in sessions one after the other, on one engine."""

    def __init__(self) -> None:
        super().__init__()
        counts["examples"] += 1
        self.engine = Engine(
            "--backend=memory",
            f"--backend-arg=size_bytes={512 * NUM_SECTORS}",
            f"--num-queues={NUM_QUEUES}",
            "--workers=1",
        )
        self.frontend = RawFrontend(
            self.engine, num_queues=NUM_QUEUES, queue_size=QUEUE_SIZE, cuts=(DATA_REGION_OFFSET,)
        )
        self.disk = bytearray(512 * NUM_SECTORS)
        self.rings = [Ring() for _ in range(NUM_QUEUES)]
        self.regions: set[int] = set()
        self.status = 0

    @property
    def connection(self) -> FrontendConnection:
        """To the engine."""
        return self.frontend.connection

    @initialize(starts=st.booleans())
    def begin(self, starts: bool) -> None:
        """What comes first in every session; with `starts` all the rest as well."""
        connection = self.connection
        connection.set_owner()
        self.offered = connection.get_features()
        connection.negotiate_protocol_features(PROTOCOL_FEATURES)
        self.accept_features()
        for queue_index, queue in enumerate(self.frontend.queues):
            connection.set_vring_call(queue_index, queue.call_fd)
        if starts:
            self.add_region(0)
            self.add_region(1)
            for queue_index in range(NUM_QUEUES):
                self.start(queue_index)

    def accept_features(self) -> None:
        self.features = self.offered & ~F_EVENT_IDX
        self.connection.set_features(self.features)

    def any_running(self) -> bool:
        return any(ring.running for ring in self.rings)

    def is_served(self, queue_index: int) -> bool:
        return self.rings[queue_index].running and self.rings[queue_index].enabled

    # Memory.

    @rule(index=st.integers(0, 1))
    def add_region(self, index: int) -> None:
        region = self.frontend.ram.regions[index]
        if index in self.regions:
            self.refused(lambda: self.connection.add_region(region, self.frontend.ram.fd))
        else:
            self.connection.add_region(region, self.frontend.ram.fd)
            self.regions.add(index)

    @rule(index=st.integers(0, 1))
    def remove_region(self, index: int) -> None:
        region = self.frontend.ram.regions[index]
        if index not in self.regions:
            self.refused(lambda: self.connection.remove_region(region))
        elif index == 1 or not self.any_running():
            self.connection.remove_region(region)
            self.regions.discard(index)

    @rule(indices=st.sets(st.integers(0, 1), min_size=1))
    def replace_memory(self, indices: set[int]) -> None:
        if self.any_running():
            indices = indices | {0}
        regions = [(self.frontend.ram.regions[index], self.frontend.ram.fd) for index in sorted(indices)]
        self.connection.set_mem_table(regions)
        self.regions = indices

    # Rings.

    def has_memory(self) -> bool:
        return 0 in self.regions

    def prepare(self, queue_index: int) -> bool:
        """Tell a ring that may be about to start where it stands; whether it rests at the moment."""
        ring = self.rings[queue_index]
        if not ring.running:
            ring.base = self.frontend.queues[queue_index].driver.used_idx
            self.connection.set_vring_base(queue_index, ring.base)
        return not ring.running

    def settle(self, queue_index: int) -> None:
        """What was offered to a ring that is served now comes back."""
        self.rings[queue_index].settle()
        if self.is_served(queue_index):
            self.frontend.queues[queue_index].kick()
            self.finish(queue_index)

    @precondition(has_memory)
    @rule(queue_index=QUEUES)
    def set_num(self, queue_index: int) -> None:
        if self.prepare(queue_index):
            self.connection.set_vring_num(queue_index, QUEUE_SIZE)
            self.rings[queue_index].has_size = True
            self.settle(queue_index)
        else:
            self.refused(lambda: self.connection.set_vring_num(queue_index, QUEUE_SIZE))

    @precondition(has_memory)
    @rule(queue_index=QUEUES, is_moved=st.booleans())
    def set_address(self, queue_index: int, is_moved: bool) -> None:
        rests = self.prepare(queue_index)
        driver = self.frontend.queues[queue_index].driver
        moved = 0x1000 if is_moved and not rests else 0
        address = VringAddress(
            queue_index,
            0,
            driver.desc_gpa + UVA_OFFSET + moved,
            driver.used_gpa + UVA_OFFSET,
            driver.avail_gpa + UVA_OFFSET,
        )
        if moved:
            self.refused(lambda: self.connection.set_vring_address(address))
        else:  # the same again is no change, while it runs
            self.connection.set_vring_address(address)
            self.rings[queue_index].has_address = True
            self.settle(queue_index)

    @precondition(has_memory)
    @rule(queue_index=QUEUES)
    def set_kick(self, queue_index: int) -> None:
        self.prepare(queue_index)
        self.connection.set_vring_kick(queue_index, self.frontend.queues[queue_index].kick_fd)
        self.rings[queue_index].has_kick = True
        self.settle(queue_index)

    @precondition(has_memory)
    @rule(queue_index=QUEUES, enabled=st.booleans())
    def set_enabled(self, queue_index: int, enabled: bool) -> None:
        self.prepare(queue_index)
        self.connection.set_vring_enable(queue_index, enabled)
        self.rings[queue_index].enabled = enabled
        self.settle(queue_index)

    @precondition(has_memory)
    @rule(queue_index=QUEUES)
    def start(self, queue_index: int) -> None:
        """All that a ring needs."""
        for step in (self.set_num, self.set_kick):
            step(queue_index)
        self.set_address(queue_index, False)
        self.set_enabled(queue_index, True)
        assert self.is_served(queue_index)

    @rule(queue_index=QUEUES)
    def get_base(self, queue_index: int) -> None:
        ring, driver = self.rings[queue_index], self.frontend.queues[queue_index].driver
        expected = driver.used_idx if ring.running else ring.base
        assert self.connection.get_vring_base(queue_index) == expected
        ring.stop(expected)

    # Requests.

    @rule(
        queue_index=QUEUES,
        sector=st.integers(0, NUM_SECTORS - 4),
        kinds=st.lists(st.none() | st.integers(0, 255), min_size=1, max_size=4),
    )
    def request(self, queue_index: int, sector: int, kinds: list[int | None]) -> None:
        """Neighbouring sectors are read or written; all comes back once the ring is served."""
        for place, byte in enumerate(kinds):
            self.offer(queue_index, sector + place, byte)
        if self.is_served(queue_index):
            self.finish(queue_index)

    def offer(self, queue_index: int, sector: int, byte: int | None) -> None:
        ring, queue = self.rings[queue_index], self.frontend.queues[queue_index]
        busy = {pending.sector for other in self.rings for pending in other.pending.values()}
        if len(ring.pending) == MAX_PENDING or sector in busy:
            return
        if not ring.pending:
            queue.driver.forget_places()
        head = next(head for head in range(0, QUEUE_SIZE, 2) if head not in ring.pending)
        counts["requests"] += 1
        if byte is None:
            data = bytes(self.disk[512 * sector : 512 * sector + 512])
            gpa = queue.offer(IN, sector, read_bytes=512, head=head)
        else:
            data = bytes([byte]) * 512
            gpa = queue.offer(OUT, sector, data=data, head=head)
        ring.pending[head] = Pending(gpa, byte is None, sector, data)

    def finish(self, queue_index: int) -> None:
        """All that is pending comes back, each once, with what it must have done."""
        ring, queue = self.rings[queue_index], self.frontend.queues[queue_index]
        for head, used_bytes in queue.wait_used(len(ring.pending)) if ring.pending else []:
            done = ring.pending.pop(head)
            read_bytes = 512 if done.is_read else 0
            written = queue.driver.read(done.writable_gpa, read_bytes + 1)
            assert written[-1] == OK
            assert used_bytes == read_bytes + 1
            if done.is_read:
                assert written[:-1] == done.data
            else:
                self.disk[512 * done.sector : 512 * done.sector + 512] = done.data
        assert not ring.pending

    # The device.

    @rule(enabled=st.booleans())
    def set_write_cache(self, enabled: bool) -> None:
        self.connection.set_config(WRITEBACK_OFFSET_BYTES, bytes([enabled]))
        assert self.connection.get_config(WRITEBACK_OFFSET_BYTES, 1) == bytes([enabled])

    @rule(status=st.integers(1, 255))
    def set_status(self, status: int) -> None:
        self.connection.command(SET_STATUS, status.to_bytes(8, "little"))
        self.status = status

    @rule(by_status=st.booleans())
    def reset_device(self, by_status: bool) -> None:
        """Rings are forgotten; memory, call fds and what is in the rings stay."""
        if by_status:
            self.connection.command(SET_STATUS, bytes(8))
        else:
            self.connection.reset_device()
        for ring in self.rings:
            ring.clear()
        self.status = 0
        self.accept_features()

    @rule(starts=st.booleans())
    def hang_up(self, starts: bool) -> None:
        """Another session: all that was said is forgotten, all that was written is there."""
        self.connection.close()
        for ring in self.rings:
            ring.clear()
        self.regions.clear()
        self.status = 0
        self.frontend.connect(self.engine)
        self.begin(starts)

    # What must be refused, and costs nothing.

    def refused(self, ask: object) -> None:
        assert callable(ask)
        with pytest.raises(BackendRefused, match="with code 1"):
            ask()

    @rule(
        what=st.sampled_from(["index", "size", "base", "enable", "features", "config", "status", "address"])
    )
    def say_what_cannot_be(self, what: str) -> None:
        connection = self.connection
        rests = not self.rings[0].running
        asks = {
            "index": lambda: connection.set_vring_num(NUM_QUEUES, QUEUE_SIZE),
            "size": lambda: connection.set_vring_num(0, 3),
            "base": lambda: connection.set_vring_base(0, 1 << 16 if rests else 0),
            "enable": lambda: connection.set_vring_enable(0, 2),  # type: ignore[arg-type]
            "features": lambda: connection.set_features(self.offered | 1 << 63),
            "config": lambda: connection.set_config(0, b"\1"),
            "status": lambda: connection.command(SET_STATUS, (256).to_bytes(8, "little")),
            "address": lambda: connection.set_vring_address(VringAddress(0, 0, 1, 1, 1)),
        }
        self.refused(asks[what])

    # What holds always.

    @invariant()
    def answers_are_right(self) -> None:
        if not hasattr(self, "offered"):
            return
        counts["rules"] += 1
        assert self.connection.get_features() == self.offered
        assert self.connection.get_queue_num() == NUM_QUEUES
        assert self.connection.get_config(0, 8) == NUM_SECTORS.to_bytes(8, "little")
        assert self.connection._query_u64(GET_STATUS) == self.status
        for ring, queue in zip(self.rings, self.frontend.queues, strict=True):
            served = ring.running and ring.enabled
            assert served is False or not ring.pending
            assert queue.driver.used() == []  # nothing comes from a ring that rests

    def teardown(self) -> None:
        try:
            self.frontend.close()
            assert self.engine.end() == 0
            assert "Traceback" not in self.engine.log(), self.engine.log()
        finally:
            self.engine.__exit__(None, None, None)


SessionMachine.TestCase.settings = settings(
    max_examples=5,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
