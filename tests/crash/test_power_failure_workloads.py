"""An overlay after a power failure under whatever workload hypothesis thinks of, its folder recorded.

Beside tests/crash/test_power_failure.py, whose loads are long and in processes at once, this one has short
ones that are made smaller until nothing is left but what fails. The fault model is in
engine/crashes/history.py.
"""

import os
import random
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringblk.crashes import Recording
from ringblk.engine.crashes.folder_copy import remove_folder
from ringblk.engine.crashes.history import SECTOR_BYTES
from ringblk.workers.backends.open_storage import OpenOverlay
from ringblk.workers.backends.overlay import OverlayBackend
from ringblk.workers.layers.folder import LIVE
from tests.crash.power_failures import leave_live_map, opened
from tests.rigs.killed_overlay import let_go
from tests.rigs.power_load import BORDERS, Expectation, Operation, carry_out, make_base, watched_blocks
from tests.rigs.recorded_folder import Record

SIZE_BYTES = 65 * (1 << 20) + 512
BASE_BYTES = SIZE_BYTES // 2 // 512 * 512
STATES = int(os.environ.get("RINGBLK_STATES", "12"))
EXAMPLES = int(os.environ.get("RINGBLK_EXAMPLES", "15"))
BLOCKS = watched_blocks(SIZE_BYTES, 0)

OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "write durably", "zero", "discard", "flush"]),
        st.integers(0, len(BLOCKS) - 1),
        st.integers(0, 7),
        st.integers(1, 24),
        st.integers(0, 1),
    ),
    min_size=1,
    max_size=25,
)


def operation(kind: str, place: int, sector: int, count: int, stamp: int) -> Operation:
    """Within a run of watched blocks; whole blocks for what has no other effect."""
    if kind == "flush":
        return Operation(kind)
    last = place
    while last + 1 < len(BLOCKS) and BLOCKS[last + 1] == BLOCKS[last] + 1 and last < place + 2:
        last += 1
    end = min((BLOCKS[last] + 1) * 4096, SIZE_BYTES)
    offset = BLOCKS[place] * 4096
    if kind != "discard":
        offset = min(offset + sector * SECTOR_BYTES, end - SECTOR_BYTES)
        end = min(end, offset + count * SECTOR_BYTES)
    return Operation(kind, offset, end - offset, stamp if kind.startswith("write") else 0)


def another(backend: OverlayBackend) -> OverlayBackend:
    """The same in another process, as good as."""
    storage, fds = backend.hand_over()
    assert isinstance(storage, OpenOverlay)
    return OverlayBackend.take(storage, [os.dup(fd) for fd in fds])


@given(OPERATIONS, st.integers(0, 1 << 16))
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_block_is_old_or_new(
    recorded_folder: Record, steps: list[tuple[str, int, int, int, int]], seed: int
) -> None:
    assert BORDERS[-1] * 4096 < SIZE_BYTES  # all kinds of borders are in it
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="ringblk-test-") as name:
        folder = Path(name)
        base, overlay = folder / "base", folder / "overlay"
        make_base(base, BASE_BYTES, SIZE_BYTES, 0)
        with opened(base, overlay, SIZE_BYTES):
            pass
        live = (overlay / LIVE).read_bytes()
        (overlay / LIVE).unlink()
        done = []
        with recorded_folder(overlay) as recorded:
            first = OverlayBackend(base, overlay, direct="off")
            first.image_lock().lock()
            processes = [first, another(first)]
            for stamp, (kind, place, sector, count, process) in enumerate(steps, 1):
                each = operation(kind, place, sector, count, stamp)
                each.began = recorded.now
                carry_out(processes[process], each)
                each.ended = recorded.now
                done.append(each)
            while processes:
                let_go(processes.pop())
            del first
        before = dict.fromkeys(range(BASE_BYTES // SECTOR_BYTES, SIZE_BYTES // SECTOR_BYTES), 0)
        expectation = Expectation(SIZE_BYTES, [done], before, 0)
        recording = Recording.read(recorded.record)
        for state in recording.states(STATES, seed):
            remove_folder(folder / "after")
            state.make(folder / "after")
            leave_live_map(folder / "after", live, chance)
            with opened(base, folder / "after") as backend:
                expectation.check(backend, state.cut)
        remove_folder(recorded.record)
