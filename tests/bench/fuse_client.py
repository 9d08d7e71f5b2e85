"""A guest's file system without a guest, for loads on any vhost-user back end for file systems."""

import contextlib
import os
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import msgspec

from ringblk.engine.devices.features import F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1
from ringblk.engine.frontend.connection import FrontendConnection
from ringblk.engine.frontend.memory import FrontendMemory
from ringblk.engine.vhost_user.codes import F_PROTOCOL_FEATURES, ProtocolFeature
from ringblk.engine.vhost_user.messages import VringAddress
from ringblk.shm.layout.histogram import Histogram
from tests.bench.compiled import compiled

ROOT, LOOKUP, GETATTR, OPEN, READ, WRITE, INIT = 1, 1, 3, 14, 15, 16, 26
OPCODES = {"read": READ, "write": WRITE, "getattr": GETATTR, "lookup": LOOKUP}
DATA_NAME, NAMES_FOLDER = "data", "names"
DATA_BYTES, BLOCK_BYTES, NAME_COUNT = 64 << 20, 4096, 1000
_GPA = 0x1_0000_0000
_QUEUE_SIZE, _MAX_DEPTH = 128, 64
_INIT_FLAGS = 1 << 0 | 1 << 5 | 1 << 13 | 1 << 14 | 1 << 18 | 1 << 22 | 1 << 30
"""As Linux: ASYNC_READ, BIG_WRITES, both of READDIRPLUS, PARALLEL_DIROPS, MAX_PAGES, INIT_EXT."""


class ShareLoad(msgspec.Struct, frozen=True):
    """Requests of one kind, so many in flight in each queue; `create` is a cycle of four requests."""

    operation: str
    depth: int
    queue_count: int = 1

    @property
    def name(self) -> str:
        """As tables have it."""
        return f"{self.operation} {self.depth}" + (f", {self.queue_count} queues" * (self.queue_count > 1))


class FuseClient:
    """A session with a back end, with so many request queues. Raises OSError."""

    def __init__(self, socket_path: str, request_queue_count: int = 1) -> None:
        self._module = compiled("fuse_queue")
        connected = socket.socket(socket.AF_UNIX)
        connected.connect(socket_path)
        self._connection = FrontendConnection(connected)
        self._closing = contextlib.ExitStack()
        self._closing.callback(self._connection.close)
        self._connection.set_owner()
        wanted = F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX
        features = self._connection.get_features() & wanted
        self._connection.negotiate_protocol_features(
            ProtocolFeature.MQ | ProtocolFeature.REPLY_ACK | ProtocolFeature.CONFIGURE_MEM_SLOTS
        )
        self._connection.set_features(features | F_PROTOCOL_FEATURES)
        self._queues = self._make_queues(request_queue_count + 1, has_event_idx=bool(features & F_EVENT_IDX))
        self._requests = self._queues[1:]
        """The first queue is for what must not wait."""
        first = self._requests[0]
        first.request(INIT, 0, struct.pack("<IIIII44x", 7, 38, 1 << 17, _INIT_FLAGS, 0), 64)
        self._data = self._node(ROOT, DATA_NAME)
        self._names = self._node(ROOT, NAMES_FOLDER)
        self._handle = struct.unpack_from(
            "<Q", first.request(OPEN, self._data, struct.pack("<II", 2, 0), 16)
        )[0]

    def _make_queues(self, count: int, *, has_event_idx: bool) -> list[Any]:
        area_bytes = self._module.queue_bytes(_QUEUE_SIZE, _MAX_DEPTH)
        data_bytes = _MAX_DEPTH * BLOCK_BYTES
        memory = FrontendMemory(count * (area_bytes + data_bytes) + 8192, _GPA)
        if ProtocolFeature.CONFIGURE_MEM_SLOTS in self._connection.protocol_features:
            self._connection.add_region(memory.region, memory.fd)
        else:
            self._connection.set_mem_table([(memory.region, memory.fd)])
        self._memory = memory
        return [
            self._make_queue(
                index,
                memory.allocate(area_bytes, 4096).gpa,
                memory.allocate(data_bytes, 4096).gpa,
                has_event_idx,
            )
            for index in range(count)
        ]

    def _make_queue(self, index: int, gpa: int, data_gpa: int, has_event_idx: bool) -> Any:
        queue = self._module.FuseQueue(
            self._memory.mapping,
            _GPA,
            _QUEUE_SIZE,
            offset_bytes=gpa - _GPA,
            depth=_MAX_DEPTH,
            data_gpa=data_gpa,
            event_idx=has_event_idx,
        )
        queue.kick_fd, queue.call_fd = os.eventfd(0), os.eventfd(0, os.EFD_NONBLOCK)
        self._closing.callback(os.close, queue.kick_fd)
        self._closing.callback(os.close, queue.call_fd)
        ring, connection, uva = queue.virtqueue, self._connection, FrontendMemory.uva
        connection.set_vring_num(index, _QUEUE_SIZE)
        connection.set_vring_base(index, 0)
        connection.set_vring_address(
            VringAddress(
                index,
                0,
                desc_uva=uva(ring.desc_gpa),
                used_uva=uva(ring.used_gpa),
                avail_uva=uva(ring.avail_gpa),
            )
        )
        connection.set_vring_call(index, queue.call_fd)
        connection.set_vring_kick(index, queue.kick_fd)
        connection.set_vring_enable(index, True)
        return queue

    def _node(self, parent: int, name: str) -> int:
        node: int = struct.unpack_from(
            "<Q", self._requests[0].request(LOOKUP, parent, name.encode() + b"\0", 128)
        )[0]
        return node

    def run(self, load: ShareLoad, *, warm_up_s: float, seconds: float) -> tuple[Histogram, int]:
        """Times of requests or cycles, and how many were answered with an error or short."""
        begin_ns = time.monotonic_ns() + int(warm_up_s * 1e9)
        end_ns = begin_ns + int(seconds * 1e9)
        queues = self._requests[: load.queue_count]
        if load.operation == "create":
            times = queues[0].create_cycles(self._queues[0], self._names, begin_ns=begin_ns, end_ns=end_ns)
            return times, 0
        with ThreadPoolExecutor(len(queues)) as threads:
            runs = [
                threads.submit(
                    queue.load,
                    OPCODES[load.operation],
                    self._names if load.operation == "lookup" else self._data,
                    self._handle,
                    block_bytes=BLOCK_BYTES,
                    block_count=DATA_BYTES // BLOCK_BYTES,
                    name_count=NAME_COUNT,
                    depth=load.depth,
                    begin_ns=begin_ns,
                    end_ns=end_ns,
                )
                for queue in queues
            ]
            times = Histogram()
            for run in runs:
                times.merge(run.result())
        return times, sum(queue.error_count for queue in queues)

    def close(self) -> None:
        """Stop the queues and hang up."""
        for index in range(len(self._queues)):
            self._connection.get_vring_base(index)
        self._closing.close()
        self._queues.clear()
        self._requests.clear()

    def __enter__(self) -> "FuseClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._closing.close()


def fill_folder(path: str) -> None:
    """What loads ask for: a file with data, and a folder of many names."""
    with open(os.path.join(path, DATA_NAME), "wb") as data:
        for _ in range(DATA_BYTES >> 20):
            data.write(os.urandom(1 << 20))
    os.mkdir(os.path.join(path, NAMES_FOLDER))
    for index in range(NAME_COUNT):
        with open(os.path.join(path, NAMES_FOLDER, f"file-{index:05}"), "wb"):
            pass
