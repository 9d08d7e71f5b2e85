"""The crash points that the code has, found in its text, and the steps that must have one."""

import re

from tests.rigs.separate_build import ROOT, package_files

PROTOCOL_FILES = (
    "engine/dispatcher/dispatch_loop.pyx",
    "engine/dispatcher/ring.pyx",
    "engine/dispatcher/unpop.pyx",
    "engine/dispatcher/idle_wait.pyx",
    "engine/dispatcher/handover.pyx",
    "engine/dispatcher/queue_table.pyx",
    "engine/dispatcher/recovery.pyx",
    "engine/dispatcher/suspension.pyx",
    "engine/zygote/fork_server.pyx",
    "shm/queues/split/inflight.pxd",
    "shm/queues/split/inflight.pyx",
    "shm/queues/split/virtqueue.pyx",
    "shm/state/segment.pyx",
    "shm/sync/wakeup.pxd",
    "workers/process/pump.pyx",
    "workers/process/uring_pump.pyx",
)
NO_STEPS = {
    "request_count": "a statistic",
    "worker_limit": "a setting of one word",
    "open_worker_count": "memory that is there already is there once more",
    "busy_ns": "a statistic",
    "USED_F_NO_NOTIFY": "a hint: kicks that come all the same do no harm",
    "self.worker.sleeping, 0)": "the worker has just begun and holds nothing",
    "state.header.control_pending, 1)": "a reminder to the process itself, whose channel stays closed",
    "self.worker.control_pending, 1)": "the same, of a worker",
    "control_pending, 0)": "the channel is read right after, by this process or the next",
}
"""Stores that are no step of a protocol, and why: part of the line -> reason."""
LINES_TO_POINT = 3
"""How far below a store its point may stand."""

_POINT = re.compile(r'\bcrash_point\("([^"]+)"\)')
_STORE = re.compile(r"\b(?:store_\w+|exchange_\d+|compare_swap_\d+|signal_wakeup)\(")


def point_names(*rooms: str) -> list[str]:
    """Every point's name, as often as it stands in the code, or in that of some rooms alone."""
    return [
        name
        for path in package_files(".py", ".pyx", ".pxd")
        if not rooms or path.relative_to(ROOT).as_posix().startswith(tuple(f"{room}/" for room in rooms))
        for name in _POINT.findall(path.read_text())
    ]


def steps_without_point(text: str) -> list[str]:
    """The stores that no point follows."""
    lines = text.splitlines()
    missing = []
    for number, line in enumerate(lines):
        code = line.partition("#")[0]
        is_step = _STORE.search(code) and not code.lstrip().startswith(("cdef ", "from ", "def "))
        if is_step and not any(part in line for part in NO_STEPS):
            following = lines[number + 1 : number + 1 + LINES_TO_POINT]
            if not any(_POINT.search(other) for other in following):
                missing.append(f"{number + 1}: {line.strip()}")
    return missing
