"""A drive with more layers than one message has descriptors for."""

import random
from pathlib import Path

from ringblk.shm.sync.channel import MAX_FDS
from ringblk.workers.backends.overlay import OverlayBackend
from ringblk.workers.backends.overlay_changes import OverlayChanger
from tests.rigs.many_drives import ManyDrives

LAYERS = MAX_FDS + 50
BLOCK_BYTES = 4096


def test_a_drive_of_many_layers(shm_path: Path) -> None:
    """It is opened, goes on after a death of each of its processes, and takes snapshots as any."""
    base, overlay = shm_path / "base", shm_path / "overlay"
    model = bytearray(random.Random(1).randbytes(2 * LAYERS * BLOCK_BYTES))
    base.write_bytes(model)
    backend = OverlayBackend(base, overlay, direct="off")
    backend.image_lock().lock()
    changer = OverlayChanger(backend, "off")
    for number in range(LAYERS):
        data = bytes([number % 255 + 1]) * BLOCK_BYTES
        backend.write_at(number * BLOCK_BYTES, data)
        model[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES] = data
        changer.settle()
        change = changer.seal(f"number {number}")
        changer.write(change.chain)
        backend.use(change.found, change.fds)
    backend.close()
    settings = {"base": str(base), "overlay": str(overlay), "io_engine": "psync"}
    with ManyDrives({}) as engine:
        assert engine.put("vm1", **settings)[0] == 201  # from the process that opens it all come at once
        check(engine, model, base.read_bytes())


def check(engine: ManyDrives, model: bytearray, base: bytes) -> None:
    with engine.frontend("vm1", memory_size_bytes=8 << 20) as disk:
        assert disk.read(0, len(model)) == model
        engine.kill_dispatcher("vm1")
        assert disk.read(0, len(model)) == model
        engine.kill_control_plane()
        assert engine.control.ask("POST", "/drives/vm1/snapshots", {"name": "one more"})[0] == 201
        disk.write(0, b"x" * BLOCK_BYTES)
        model[:BLOCK_BYTES] = b"x" * BLOCK_BYTES
        engine.kill_dispatcher("vm1")
        assert disk.read(0, len(model)) == model
        body = {"snapshot": f"number {LAYERS // 2}", "force": True}
        assert engine.control.ask("POST", "/drives/vm1/reset", body)[0] == 200
        half = (LAYERS // 2 + 1) * BLOCK_BYTES
        expected = bytes([1]) * BLOCK_BYTES + model[BLOCK_BYTES:half] + base[half:]
        assert disk.read(0, len(model)) == expected
