"""A front end's session with its back end: what they agreed on, and what a new back end is told again."""

import contextlib
import math
import os
import socket
import time
from collections.abc import Sequence

from ringblk.engine.devices.features import F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1
from ringblk.engine.frontend.backend import STOP_TIMEOUT_S, BackendProcess, connect_to
from ringblk.engine.frontend.connection import FrontendConnection
from ringblk.engine.frontend.memory import FrontendMemory
from ringblk.engine.frontend.queue import FrontendQueue
from ringblk.engine.frontend.request import BackendGone, BackendRefused
from ringblk.engine.vhost_user.codes import F_PROTOCOL_FEATURES, ProtocolFeature
from ringblk.engine.vhost_user.messages import InflightDescription, VringAddress
from ringblk.shm.platform.wakeups import make_wakeup
from ringblk.workers.backends.topology import SECTOR_BYTES
from ringblk.workers.block.config_space import CONFIG_BYTES, BlockConfigSpace
from ringblk.workers.block.protocol import (
    F_BLK_SIZE,
    F_CONFIG_WCE,
    F_DISCARD,
    F_FLUSH,
    F_MQ,
    F_RO,
    F_SEG_MAX,
    F_TOPOLOGY,
    F_WRITE_ZEROES,
)

BackendSource = str | os.PathLike[str] | Sequence[str]

_WANTED_PROTOCOL_FEATURES = (
    ProtocolFeature.MQ
    | ProtocolFeature.REPLY_ACK
    | ProtocolFeature.CONFIG
    | ProtocolFeature.CONFIGURE_MEM_SLOTS
    | ProtocolFeature.INFLIGHT_SHMFD
)


_WANTED_FEATURES = (
    F_SEG_MAX
    | F_RO
    | F_BLK_SIZE
    | F_FLUSH
    | F_TOPOLOGY
    | F_CONFIG_WCE
    | F_MQ
    | F_DISCARD
    | F_WRITE_ZEROES
    | F_INDIRECT_DESC
    | F_EVENT_IDX
    | F_VERSION_1
)


class FrontendSession:
    """Opens the connection; then negotiate() and start(); reconnect() does it all again with a new back end.

    `indirect` and `event_idx` say what is wanted, and after negotiate() what was agreed. `deadline_s`, of the
    monotonic clock, is when there must be a connection (TimeoutError); for what is said over it,
    `connection.within` says so.
    """

    def __init__(
        self, backend: BackendSource, *, indirect: bool, event_idx: bool, deadline_s: float = math.inf
    ) -> None:
        self.indirect = indirect
        self.event_idx = event_idx
        self.features = 0
        self.config = BlockConfigSpace()
        self._process: BackendProcess | None = None
        self._memories: list[FrontendMemory] = []
        self._queues: list[FrontendQueue] = []
        self._inflight: tuple[InflightDescription, int] | None = None
        self.connection = self._open(backend, deadline_s)

    def _open(self, backend: BackendSource, deadline_s: float) -> FrontendConnection:
        if isinstance(backend, (str, os.PathLike)):
            return FrontendConnection(connect_to(backend, deadline_s))
        self._process = BackendProcess(backend, deadline_s=deadline_s)
        return FrontendConnection(self._process.connection)

    @property
    def backend_pid(self) -> int | None:
        """The process id of a back end that was started from a command."""
        return self._process.process.pid if self._process else None

    def negotiate(self, num_queues: int) -> None:
        """Agree on features and read the config space. Raises BackendRefused for what cannot be had."""
        self.connection.set_owner()
        offered = self.connection.get_features()
        self._check_offer(offered)
        self.connection.negotiate_protocol_features(_WANTED_PROTOCOL_FEATURES)
        if ProtocolFeature.CONFIG not in self.connection.protocol_features:
            raise BackendRefused("the back end has no config space to be read (protocol feature CONFIG)")
        queue_num = self.connection.get_queue_num()
        if num_queues > queue_num:
            raise BackendRefused(f"the back end has {queue_num} queues, {num_queues} were asked for")
        self.features = self.features or self._wanted_features() & offered
        self.indirect = bool(self.features & F_INDIRECT_DESC)
        self.event_idx = bool(self.features & F_EVENT_IDX)
        self.connection.set_features(self.features | F_PROTOCOL_FEATURES)
        self.read_config()

    def _wanted_features(self) -> int:
        wanted = _WANTED_FEATURES
        if not self.indirect:
            wanted &= ~F_INDIRECT_DESC
        if not self.event_idx:
            wanted &= ~F_EVENT_IDX
        return wanted

    def _check_offer(self, offered: int) -> None:
        if not offered & F_VERSION_1:
            raise BackendRefused("the back end does not offer VERSION_1")
        if not offered & F_PROTOCOL_FEATURES:
            raise BackendRefused("the back end does not offer protocol features")
        missing = self.features & ~offered
        if missing:
            raise BackendRefused(f"the new back end lacks features that the old one had: {missing:#x}")

    def read_config(self) -> BlockConfigSpace:
        """Read the config space into `config`."""
        self.config = BlockConfigSpace.decode(self.connection.get_config(0, CONFIG_BYTES))
        for queue in self._queues:
            queue.capacity_bytes = self.config.capacity * SECTOR_BYTES
        return self.config

    def explain(self) -> BackendGone | None:
        """How a back end that was started here has ended, and its last line; None where nothing is known."""
        return self._process.describe_end() if self._process is not None else None

    # Memory and rings.

    def start(self, memories: list[FrontendMemory], queues: list[FrontendQueue]) -> None:
        """Hand over memory and rings, and let the rings be served."""
        self._memories = memories
        self._queues = queues
        for queue in queues:
            queue.kick_fd = make_wakeup()
            queue.call_fd = make_wakeup()
            queue.capacity_bytes = self.config.capacity * SECTOR_BYTES
        self._send_memories()
        if ProtocolFeature.INFLIGHT_SHMFD in self.connection.protocol_features:
            queue_size = queues[0].virtqueue.queue_size
            self._inflight = self.connection.get_inflight(len(queues), queue_size)
            self.connection.set_inflight(*self._inflight)
        self._start_queues()

    def _send_memories(self) -> None:
        if ProtocolFeature.CONFIGURE_MEM_SLOTS in self.connection.protocol_features:
            for memory in self._memories:
                self.connection.add_region(memory.region, memory.fd)
        else:
            self.connection.set_mem_table([(memory.region, memory.fd) for memory in self._memories])

    def _start_queues(self) -> None:
        for queue_index, queue in enumerate(self._queues):
            ring = queue.virtqueue
            queue.socket_fd = self.connection.socket.fileno()
            self.connection.set_vring_num(queue_index, ring.queue_size)
            self.connection.set_vring_base(queue_index, ring.used_idx)
            self.connection.set_vring_address(
                VringAddress(
                    queue_index,
                    flags=0,
                    desc_uva=FrontendMemory.uva(ring.desc_gpa),
                    used_uva=FrontendMemory.uva(ring.used_gpa),
                    avail_uva=FrontendMemory.uva(ring.avail_gpa),
                )
            )
            self.connection.set_vring_call(queue_index, queue.call_fd)
            self.connection.set_vring_kick(queue_index, queue.kick_fd)
        for queue_index in range(len(self._queues)):
            self.connection.set_vring_enable(queue_index, True)

    # Another back end, and the end.

    def disconnect(self, deadline_s: float = math.inf) -> None:
        """Leave the back end as it is, and end it if it was started here."""
        with contextlib.suppress(OSError):
            self.connection.socket.shutdown(socket.SHUT_RDWR)  # for threads that wait
        self.connection.close()
        if self._process is not None:
            self._process.stop(max(0.0, min(STOP_TIMEOUT_S, deadline_s - time.monotonic())))
            self._process = None

    def reconnect(self, backend: BackendSource, deadline_s: float = math.inf) -> None:
        """Have a new back end go on where the old one was.

        disconnect() comes first, then stash_ready() of every queue.
        """
        self.connection = self._open(backend, deadline_s)
        with self.connection.within(deadline_s):
            self._go_on()

    def _go_on(self) -> None:
        self.negotiate(len(self._queues))
        self._send_memories()
        if self._inflight is not None and ProtocolFeature.INFLIGHT_SHMFD in self.connection.protocol_features:
            self.connection.set_inflight(*self._inflight)
        else:
            for queue in self._queues:
                queue.virtqueue.offer_again()
        self._start_queues()
        for queue in self._queues:
            # Nobody has looked at what was offered to the old one, whatever the ring says of kicks.
            queue.kick(always=True)

    def stop(self) -> None:
        """Stop the rings, which waits for what is in flight."""
        for queue_index in range(len(self._queues)):
            self.connection.get_vring_base(queue_index)

    def close(self) -> None:
        """End the connection, the process, and everything that was handed over."""
        self.disconnect()
        self._close_fds()

    def abandon(self) -> None:
        """In a forked child: let go of the descriptors, and leave all that they stand for to the parent."""
        self.connection.close()
        if self._process is not None:
            self._process.abandon()
            self._process = None
        self._close_fds()

    def _close_fds(self) -> None:
        fds = [fd for queue in self._queues for fd in (queue.kick_fd, queue.call_fd)]
        if self._inflight is not None:
            fds.append(self._inflight[1])
        for fd in fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        for queue in self._queues:
            queue.kick_fd = queue.call_fd = queue.socket_fd = -1
        self._inflight = None
        self._queues = []
