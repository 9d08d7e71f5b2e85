"""A front end that takes its queue, with requests in flight, from one engine to another."""

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence

from ringblk.engine.vhost_user.codes import FrontendRequest, ProtocolFeature
from ringblk.engine.vhost_user.messages import InflightDescription, VringState, encode_vring_state
from tests.rigs.dirty_log import logged
from tests.rigs.engine_rig import PROGRAM, Engine, RawFrontend
from tests.rigs.inline_device import FLUSH, IN, OK, OUT
from tests.rigs.stalling_file import StallingFile

OLD, NEW = b"old".ljust(4096, b"."), b"new".ljust(4096, b"!")
PLACE = 4096
"""Where both are written."""
SIZE_BYTES = 1 << 20


class MovingFrontend(RawFrontend):
    """A front end with an in-flight region that it takes along, over the same guest memory."""

    inflight: tuple[InflightDescription, int] | None = None

    def begin(self) -> "MovingFrontend":
        """Set all up, with the in-flight region of the back end before, if there was one."""
        self.negotiate()
        wanted = ProtocolFeature.GET_VRING_BASE_INFLIGHT | ProtocolFeature.GET_VRING_BASE_SKIP_DRAIN
        self.connection.negotiate_protocol_features(self.connection.protocol_features | wanted)
        self.add_memory()
        if self.inflight is None:
            self.inflight = self.connection.get_inflight(len(self.queues), self.queues[0].driver.queue_size)
        self.go_on()
        return self

    def go_on(self) -> None:
        """Start the queue, where the in-flight region says that it stands."""
        assert self.inflight is not None
        self.connection.set_inflight(*self.inflight)
        self.start_queue(0)

    def suspend(self) -> int:
        """Stop the queue at once; its next avail index."""
        asked = encode_vring_state(VringState(0, 0))
        reply = self.connection._query(FrontendRequest.GET_VRING_BASE_SKIP_DRAIN, asked)
        assert isinstance(reply, VringState)
        return reply.num

    def move(self, target: Engine | socket.socket) -> None:
        """Be connected to another engine, and leave this one as it is."""
        self.left = self.connection
        self.connect(target)
        self.begin()

    def close(self) -> None:
        if hasattr(self, "left"):
            self.left.close()
        super().close()
        if self.inflight is not None:
            os.close(self.inflight[1])


@contextlib.contextmanager
def suspended(
    options: Sequence[str],
    disk_file: StallingFile,
    *,
    count: int = 1,
    partial_count: int = 0,
    read_count: int = 0,
    source_options: Sequence[str] = (),
    program: Sequence[str] = (PROGRAM,),
) -> Iterator[tuple[Engine, Engine, MovingFrontend]]:
    """Source, target, and a front end whose queue was stopped while a write hangs in the disk.

    Behind that come others of whole blocks, `count` in all, and some of a part of the first one's block.
    Reads stand before it, and wait where there is a limit for them. The source
    alone has `source_options`, and is `program`.
    """
    with (
        Engine(*options, *source_options, program=program) as source,
        Engine(*options) as target,
        MovingFrontend(source) as frontend,
    ):
        frontend.begin()
        queue = frontend.queues[0]
        assert queue.request(OUT, PLACE // 512, data=OLD) == (OK, b"")
        assert queue.request(IN, PLACE // 512, read_bytes=4096) == (OK, OLD)
        disk_file.stall()
        queue.driver.forget_places()
        for place in range(count + partial_count, count + partial_count + read_count):
            queue.offer(IN, PLACE // 512, read_bytes=4096, head=2 * place)
        for place in range(count):
            queue.offer(OUT, (PLACE + 4096 * place) // 512, data=NEW, head=2 * place)
        for place in range(count, count + partial_count):
            queue.offer(OUT, PLACE // 512 + 1, data=NEW[512:1024], head=2 * place)
        disk_file.wait_for(lambda: PLACE in disk_file.held_offsets)
        with logged(frontend):
            assert 3 <= frontend.suspend() <= 2 + count + partial_count + read_count
        yield source, target, frontend
        disk_file.go_on()


def check_done(frontend: MovingFrontend, disk_file: StallingFile, count: int = 1) -> None:
    """The writes that hung are reported once each, and what is written after them stays."""
    queue = frontend.queues[0]
    assert sorted(head for head, _ in queue.wait_used(count)) == list(range(0, 2 * count, 2))
    assert bytes(disk_file.content[PLACE : PLACE + 4096]) == NEW
    assert queue.request(OUT, PLACE // 512, data=OLD) == (OK, b"")
    assert queue.request(FLUSH) == (OK, b"")
    assert queue.request(IN, PLACE // 512, read_bytes=4096) == (OK, OLD)
    assert bytes(disk_file.content[PLACE : PLACE + 4096]) == OLD
    assert queue.driver.used() == []


def coarse_options(disk_file: StallingFile) -> list[str]:
    """Of an engine that goes by blocks of 4096 bytes."""
    backend = ["--backend=coarse_disk:coarse_disk", f"--backend-arg=path={disk_file.path}"]
    return [*backend, "--io-engine=psync", "--workers=1", "--lock=running"]
