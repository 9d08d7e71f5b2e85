"""An overlay whose bytes are known, changed layer by layer, without an engine."""

import os
import random
from pathlib import Path

from ringblk.workers.backends.open_storage import OpenOverlay
from ringblk.workers.backends.overlay import OverlayBackend
from ringblk.workers.backends.overlay_changes import OverlayChange, OverlayChanger
from ringblk.workers.layers.chain_form import NO_LAYER


class Layered:
    """An overlay whose bytes are known, as it is open in two processes."""

    def __init__(self, folder: Path, *, base: Path, snapshot: str | None = None, seed: int = 0) -> None:
        self.chance = random.Random(seed)
        self.folder, self.base, self.snapshot = folder, base, snapshot
        self.open()
        self.model = bytearray(self.read())
        self.snapshots: dict[str, bytes] = {}

    def open(self) -> None:
        self.backend = OverlayBackend(self.base, self.folder, snapshot=self.snapshot, direct="off")
        self.backend.image_lock().lock()
        self.changer = OverlayChanger(self.backend, "off")
        found, fds = self.backend.hand_over()
        assert isinstance(found, OpenOverlay)
        self.other = OverlayBackend.take(found, [os.dup(fd) for fd in fds])

    def close(self) -> None:
        self.other.close()
        self.backend.close()

    def read(self) -> bytes:
        content = bytearray(self.backend.size_bytes)
        self.backend.read_at(0, content)
        return bytes(content)

    def write(self, count: int = 30) -> None:
        for _ in range(count):
            backend = self.chance.choice([self.backend, self.other])
            offset = self.chance.randrange(len(self.model) // 512) * 512
            data = self.chance.randbytes(512 * self.chance.randrange(1, 40))[: len(self.model) - offset]
            if self.chance.random() < 0.2:
                backend.write_zeroes(offset, len(data))
                data = bytes(len(data))
            else:
                backend.write_at(offset, data)
            self.model[offset : offset + len(data)] = data

    def change(self, change: OverlayChange) -> None:
        self.changer.write(change.chain)
        copies = {name: os.dup(fd) for name, fd in change.fds.items()}
        self.backend.use(change.found, change.fds)
        self.other.use(change.found, copies)

    def seal(self, name: str) -> None:
        self.changer.settle()
        self.change(self.changer.seal(name))
        self.snapshots[name] = bytes(self.model)

    def reset(self, name: str) -> None:
        self.changer.settle()
        layer = self.changer.chain.snapshot(name)
        self.change(self.changer.reset(layer.layer_id if layer is not None else NO_LAYER))
        self.changer.remove_strays()
        self.model[:] = self.snapshots[name]

    def check(self) -> None:
        assert self.read() == self.model
        content = bytearray(len(self.model))
        self.other.read_at(0, content)
        assert content == self.model
