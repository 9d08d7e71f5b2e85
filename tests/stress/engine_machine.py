"""A state machine: whole engines driven through the front end, against a bytearray."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ringblk import Frontend, RequestStatus, RequestType
from tests.rigs.engine_rig import Engine
from tests.stress.counts import counts

DISK_BYTES = 128 << 10
SECTORS = DISK_BYTES // 512
CHUNK_BYTES = 2048
TIMEOUT_S = 30.0


class Kind(NamedTuple):
    """An engine to drive."""

    num_queues: int
    options: tuple[str, ...]


KINDS = (
    Kind(1, ("--workers=1",)),
    Kind(3, ("--workers=3", "--num-queues=3")),
    Kind(2, ("--io-engine=sync", "--num-queues=2", "--cache=unsafe")),
    Kind(4, ("--workers=2", "--num-queues=4", "--direct=off", "--queue-size=8")),
)
engines: dict[Kind, Engine] = {}


@contextlib.contextmanager
def engines_in(folder: Path) -> Iterator[None]:
    """The engines that the machine drives, one of each kind."""
    for number, kind in enumerate(KINDS):
        image = folder / f"{number}.img"
        image.write_bytes(bytes(DISK_BYTES))
        engines[kind] = Engine(f"--blk-file={image}", "--drive-id=machine", *kind.options)
    yield
    for engine in engines.values():
        engine.__exit__(None, None, None)
    engines.clear()


class EngineMachine(RuleBasedStateMachine):
    """Whatever is written is read; what fails changes nothing."""

    @initialize(
        kind=st.sampled_from(KINDS),
        indirect=st.booleans(),
        event_idx=st.booleans(),
        queue_size=st.sampled_from([4, 16, 256]),
    )
    def connect(self, kind: Kind, indirect: bool, event_idx: bool, queue_size: int) -> None:
        self.kind = kind
        self.has_write_cache = "--cache=unsafe" not in kind.options
        self.disk = Frontend(
            engines[kind].socket_path,
            memory_size_bytes=1 << 20,
            num_queues=kind.num_queues,
            queue_size=queue_size,
            indirect=indirect,
            event_idx=event_idx,
            request_timeout_s=TIMEOUT_S,
        )
        self.disk.write_zeroes(0, DISK_BYTES)
        self.model = bytearray(DISK_BYTES)

    def queue(self, number: int) -> int:
        return number % self.kind.num_queues

    @rule(
        sector=st.integers(0, SECTORS - 1),
        count=st.integers(0, 70),
        seed=st.binary(min_size=1, max_size=9),
        queue=st.integers(0, 3),
    )
    def write(self, sector: int, count: int, seed: bytes, queue: int) -> None:
        start, end = 512 * sector, 512 * min(SECTORS, sector + count)
        data = (seed * DISK_BYTES)[: end - start]
        self.disk.write(start, data, queue_index=self.queue(queue))
        self.model[start:end] = data

    @rule(sector=st.integers(0, SECTORS - 1), count=st.integers(0, 70), queue=st.integers(0, 3))
    def read(self, sector: int, count: int, queue: int) -> None:
        start, end = 512 * sector, 512 * min(SECTORS, sector + count)
        assert self.disk.read(start, end - start, queue_index=self.queue(queue)) == self.model[start:end]

    @rule(
        sector=st.integers(0, SECTORS - 1),
        count=st.integers(0, 70),
        unmap=st.booleans(),
        queue=st.integers(0, 3),
    )
    def write_zeroes(self, sector: int, count: int, unmap: bool, queue: int) -> None:
        start, end = 512 * sector, 512 * min(SECTORS, sector + count)
        self.disk.write_zeroes(start, end - start, unmap=unmap, queue_index=self.queue(queue))
        self.model[start:end] = bytes(end - start)

    @rule(sector=st.integers(0, SECTORS - 1), count=st.integers(0, 70))
    def discard(self, sector: int, count: int) -> None:
        start, end = 512 * sector, 512 * min(SECTORS, sector + count)
        self.disk.discard(start, end - start)
        self.model[start:end] = self.disk.read(start, end - start)  # which may be anything

    @rule(queue=st.integers(0, 3))
    def flush(self, queue: int) -> None:
        self.disk.flush(queue_index=self.queue(queue))

    @rule(
        chunks=st.lists(
            st.tuples(st.integers(0, DISK_BYTES // CHUNK_BYTES - 1), st.booleans(), st.integers(0, 255)),
            unique_by=lambda chunk: chunk[0],
            max_size=20,
        ),
        shift=st.integers(0, 600),
    )
    def many_at_once(self, chunks: list[tuple[int, bool, int]], shift: int) -> None:
        """Reads and writes that do not touch each other, over all queues, on buffers at odd addresses."""
        waiting: dict[int, tuple[int, bool, int]] = {}
        buffers = []
        for number, (chunk, writes, value) in enumerate(chunks):
            queue_index = self.queue(number)
            buffer = self.disk.allocate(CHUNK_BYTES + shift, 64).part(shift, CHUNK_BYTES)
            buffers.append(buffer)
            if self.disk.inflight_count(queue_index=queue_index) and number >= self.kind.num_queues:
                self.finish_some(waiting, queue_index)
            submit = self.disk.submit_write if writes else self.disk.submit_read
            buffer.view[:] = bytes([value]) * CHUNK_BYTES
            waiting[submit(chunk * CHUNK_BYTES, buffer, queue_index=queue_index)] = (chunk, writes, value)
        for queue_index in range(self.kind.num_queues):
            while self.disk.inflight_count(queue_index=queue_index):
                self.finish_some(waiting, queue_index)
        assert not waiting

    def finish_some(self, waiting: dict[int, tuple[int, bool, int]], queue_index: int) -> None:
        completions = self.disk.poll(1, TIMEOUT_S, queue_index=queue_index)
        assert completions
        for done in completions:
            chunk, writes, value = waiting.pop(done.token)
            start, end = chunk * CHUNK_BYTES, (chunk + 1) * CHUNK_BYTES
            assert done.status == RequestStatus.OK
            assert done.used_length_bytes == (1 if writes else CHUNK_BYTES + 1)
            if writes:
                self.model[start:end] = bytes([value]) * CHUNK_BYTES
            else:
                assert done.buffer is not None
                assert bytes(done.buffer) == self.model[start:end]

    @rule(
        request_type=st.sampled_from([RequestType.IN, RequestType.OUT, 77]),
        sector=st.sampled_from([SECTORS, SECTORS - 1, 1 << 55, (1 << 64) - 1]),
    )
    def ask_for_what_cannot_be(self, request_type: int, sector: int) -> None:
        with self.disk.allocate(1024) as buffer:
            writes = request_type == RequestType.IN
            done = self.disk.wait(
                self.disk.submit_request(request_type, sector, buffer, device_writes=writes), TIMEOUT_S
            )
        assert done.status == (RequestStatus.UNSUPP if request_type == 77 else RequestStatus.IOERR)
        assert done.used_length_bytes == 1

    @rule(enabled=st.booleans())
    def set_write_cache(self, enabled: bool) -> None:
        if self.has_write_cache:
            self.disk.set_write_cache(enabled)

    @rule()
    def get_id(self) -> None:
        assert self.disk.get_id() == "machine"

    @invariant()
    def nothing_is_in_flight(self) -> None:
        counts["rules"] += 1
        if hasattr(self, "disk"):
            assert [self.disk.inflight_count(queue_index=index) for index in range(self.kind.num_queues)] == [
                0
            ] * self.kind.num_queues

    def teardown(self) -> None:
        if hasattr(self, "disk"):
            with self.disk:
                assert self.disk.read(0, DISK_BYTES) == self.model
                used = sum(queue.virtqueue.used_idx for queue in self.disk.queues)
                counts.update(requests=used, examples=1)


EngineMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
