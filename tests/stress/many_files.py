"""A guest that comes to know many files of a shared folder, while the dispatcher is killed, and forgets them.

Fault model: SIGKILL of the dispatcher between any two requests; a host that runs out of nothing.
"""

import os
import random
import signal
import struct
from pathlib import Path

from tests.rigs.engine_rig import Engine, eventually
from tests.rigs.share import BATCH_FORGET, GETATTR, ROOT, ShareFrontend, errno_of, share_engine
from tests.stress.counts import counts

FILES_PER_FOLDER = 1000
OPEN_LIMIT = 1024 + 100
"""Descriptors of a process: of inodes, and for all else."""
REPLY_BYTES = 1 << 14
FORGOTTEN_AT_ONCE = 1000
KILLS = 5


def descriptor_counts(engine: Engine) -> list[int]:
    """Of the drive's processes."""
    return [len(os.listdir(f"/proc/{pid}/fd")) for pid in engine.children()]


def kill_dispatcher(engine: Engine) -> None:
    (pid,) = engine.children()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: engine.children() and pid not in engine.children(), "another dispatcher")
    counts.update(kills=1)


def make_files(folder: Path, count: int) -> None:
    for number in range(count):
        place = folder / f"folder-{number // FILES_PER_FOLDER}"
        if number % FILES_PER_FOLDER == 0:
            place.mkdir()
        os.close(os.open(place / f"file-{number}", os.O_CREAT | os.O_WRONLY))


def forget_all(guest: ShareFrontend, node_ids: list[int]) -> None:
    for place in range(0, len(node_ids), FORGOTTEN_AT_ONCE):
        some = node_ids[place : place + FORGOTTEN_AT_ONCE]
        entries = b"".join(struct.pack("<QQ", node_id, 1) for node_id in some)
        header = guest.header(BATCH_FORGET, 0, 8 + len(entries))
        guest.send([header, struct.pack("<II", len(some), 0) + entries], None, queue_index=0)


def know_many_files(folder: Path, count: int, seed: int) -> None:
    """Look all of them up, use some, forget them all: the engine has no more open than at the beginning."""
    chosen = random.Random(seed)
    make_files(folder, count)
    with share_engine(folder, "--io-engine=sync") as engine:
        guest = ShareFrontend(engine)
        node_ids: list[int] = []
        names = sorted(guest.names_in(ROOT))
        kills = set(chosen.sample(range(len(names)), min(KILLS, len(names))))
        for place, name in enumerate(names):
            found = guest.lookup(name)
            node_ids.append(found.node_id)
            node_ids += [
                entry.node_id for entry in guest.entries_in(found.node_id, room=REPLY_BYTES).values()
            ]
            if place in kills:
                kill_dispatcher(engine)
            for node_id in chosen.sample(node_ids, 20):
                guest.getattr(node_id)
            assert max(descriptor_counts(engine)) <= OPEN_LIMIT
            counts.update(requests=20 + FILES_PER_FOLDER)
        assert len(set(node_ids)) == len(node_ids) == count + len(names)
        forget_all(guest, node_ids)
        for node_id in chosen.sample(node_ids, 20):
            assert errno_of(GETATTR, guest, node_id, bytes(16), 104) == "ESTALE"
        guest.lookup(names[0])
        guest.close()
    counts.update(examples=1)
