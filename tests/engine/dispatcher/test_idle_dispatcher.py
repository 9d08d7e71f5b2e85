"""Who carries out what comes in while the dispatcher has nothing to do."""

import time
from pathlib import Path

from ringblk.shm.state.reader import read_workers
from ringblk.shm.state.segment import StateSegment
from tests.rigs.engine_rig import Engine, raw_frontend
from tests.rigs.inline_device import IN, OK

READS = 20
APART_S = 0.005
"""Longer than the dispatcher may be busy for before it gives its disk I/O away."""


def test_requests_far_apart_are_the_dispatchers_own(tmp_path: Path) -> None:
    """The time that it has slept for them is none that it was busy in.

    Most of them: what the host keeps from running for a millisecond just then may give one away.
    """
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    with (
        Engine(f"--blk-file={image}", "--direct=off", "--io-engine=io_uring_inline") as engine,
        raw_frontend(engine) as frontend,
    ):
        state = StateSegment.attach(engine.segment_name)
        for _ in range(READS):
            time.sleep(APART_S)
            assert frontend.queues[0].request(IN, read_bytes=4096)[0] == OK
        given_away = sum(worker[2] for worker in read_workers(state))
        state.close()
        assert given_away < READS / 2
