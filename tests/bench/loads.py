"""Loads by name: `randread-4k-qd32`, `seqwrite-128k-qd8`, `mixed70-4k-qd16`, with `-q4` for four queues."""

import re

from ringblk.engine.load.load import Load

STANDARD_LOADS = (
    "randread-4k-qd1",
    "randread-4k-qd32",
    "randread-4k-qd128",
    "randwrite-4k-qd32",
    "seqread-128k-qd8",
)
MORE_LOADS = (
    "randread-64k-qd8",
    "randwrite-4k-qd1",
    "mixed70-4k-qd32",
    "seqwrite-128k-qd8",
    "randread-4k-qd256",
    "randread-4k-qd32-q2",
)
PICTURE_DEPTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

_NAME = re.compile(r"(rand|seq)?(read|write|mixed(\d+))-(\d+)k-qd(\d+)(?:-q(\d+))?")


def load_named(name: str) -> Load:
    """The load that a name stands for; `mixed70` is 70 percent reads at random. Raises ValueError."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"no load is called {name}: they are like randread-4k-qd32, mixed70-4k-qd8-q2")
    order, kind, mixed_percent, block_kib, depth, num_queues = match.groups()
    read_percent = int(mixed_percent) if mixed_percent else 100 if kind == "read" else 0
    return Load(
        block_bytes=int(block_kib) * 1024,
        depth=int(depth),
        pattern="sequential" if order == "seq" else "random",
        read_percent=read_percent,
        num_queues=int(num_queues or 1),
    )
