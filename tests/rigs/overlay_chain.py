"""Overlays of many layers whose content is known, made without an engine."""

import random
import shutil
from pathlib import Path

import msgspec

from ringblk.engine.images.overlay import OverlayImage
from ringblk.engine.images.overlay_create import create_overlay
from ringblk.engine.images.overlay_hold import OverlayHold
from ringblk.workers.layers.form import BLOCK_BYTES, block_count
from ringblk.workers.layers.layer_writer import LayerWriter


class Write(msgspec.Struct, frozen=True):
    """Some blocks have new content, or zeroes."""

    first: int
    count: int
    is_zero: bool = False


class KnownOverlay:
    """An overlay of which the content at each snapshot is kept as well, in `contents`."""

    def __init__(self, home: Path, base_bytes: int, size_bytes: int, seed: int = 1) -> None:
        self.chance = random.Random(seed)
        home.mkdir(exist_ok=True)
        self.folder = home / "overlay"
        self.base = home / "base"
        self.base.write_bytes(self.chance.randbytes(base_bytes))
        create_overlay(self.folder, str(self.base), size_bytes)
        base = self.base.read_bytes()
        self.content = bytearray(base[:size_bytes].ljust(size_bytes, b"\0"))
        self.contents = {"base": base}

    def snapshot(self, name: str, writes: list[Write], size_bytes: int | None = None) -> None:
        """A snapshot more, in which these things were written; the drive may have another size by now."""
        size_bytes = size_bytes or len(self.content)
        before = self.content if len(self.contents) > 1 else bytearray(self.base.read_bytes())
        self.content = before[:size_bytes].ljust(size_bytes, b"\0")
        with OverlayHold(str(self.folder)) as hold, hold.new_snapshot(name, size_bytes) as writer:
            self._write(writer, writes)
        self.contents[name] = bytes(self.content)

    def _write(self, writer: LayerWriter, writes: list[Write]) -> None:
        """What is written to a block last is what the layer has of it."""
        count = block_count(len(self.content))
        last = {
            block: write.is_zero
            for write in writes
            for block in range(write.first % count, min(write.first % count + write.count, count))
        }
        for block, is_zero in last.items():
            offset, end = block * BLOCK_BYTES, min((block + 1) * BLOCK_BYTES, len(self.content))
            if is_zero:
                writer.write_zeroes(offset, end - offset)
                self.content[offset:end] = bytes(end - offset)
            else:
                self.content[offset:end] = self.chance.randbytes(end - offset)
                writer.write(offset, self.content[offset:end])

    def copy_of_base(self, home: Path, size_bytes: int) -> Path:
        """Another host: an overlay without blocks on a copy of the base."""
        home.mkdir()
        shutil.copy(self.base, home / "base")
        create_overlay(home / "overlay", str(home / "base"), size_bytes)
        return home / "overlay"


def content_at(folder: Path, name: str | None = None) -> bytes:
    """What an overlay's drive has, as it is or at a snapshot."""
    with OverlayImage(str(folder), name) as image:
        content = bytearray()
        for span in image.spans(image.pieces()):
            assert span.offset_bytes == len(content)
            content += bytes(span.size_bytes) if span.data is None else span.data
    return bytes(content)
