"""A whole chain of snapshots to and from qcow2, through QEMU: an image for each layer, on that below it."""

import os
from collections.abc import Callable, Iterator
from mmap import mmap
from pathlib import Path

from ringblk.engine.images.direct_io_reader import Span
from ringblk.engine.images.error import ImageError
from ringblk.engine.images.nbd_client import CMD_FLUSH, CMD_READ, CMD_WRITE, CMD_WRITE_ZEROES, NbdError
from ringblk.engine.images.overlay import ImagePiece, OpenLayer, OverlayImage
from ringblk.engine.images.overlay_create import create_overlay
from ringblk.engine.images.overlay_hold import OverlayHold
from ringblk.engine.images.partial_folder import PartialFolder
from ringblk.engine.images.qemu_image import ChainImage, QemuNbd, create_on, describe_chain, map_extents
from ringblk.workers.layers.block_set import BlockMarks, BlockSet
from ringblk.workers.layers.chain_form import MAX_NAME_BYTES
from ringblk.workers.layers.form import BLOCK_BYTES, block_count

Watch = Callable[[int, int], None]
"""Told how many bytes of how many are done."""
_MAX_WRITE_BYTES = 1 << 20
_MAX_ZEROES_BYTES = 1 << 30
_BASE_NAME = "0-base.qcow2"


def export_chain(image: OverlayImage, target: Path, watch: Watch) -> list[str]:
    """Write an overlay's layers from the base up as qcow2 files into a new folder; their names.

    The folder is there whole or not at all. Raises `ImageError`, `OSError`.
    """
    partial = PartialFolder(target)
    try:
        names = _write_files(image, partial.path, watch)
        partial.commit()
    except BaseException:
        partial.discard()
        raise
    return names


def _write_files(image: OverlayImage, folder: Path, watch: Watch) -> list[str]:
    names: list[str] = []
    layers = list(reversed(image.layers))
    total_bytes = len(layers) * image.size_bytes
    if image.base_fd is not None:
        size_bytes = os.lseek(image.base_fd, 0, os.SEEK_END) // 512 * 512
        create_on(folder / _BASE_NAME, size_bytes, None)
        _fill(folder / _BASE_NAME, image.spans([ImagePiece(0, size_bytes, image.base_fd, size_bytes)]))
        names.append(_BASE_NAME)
    for number, each in enumerate(layers, 1):
        name = f"{number}-{_file_name(each)}.qcow2"
        create_on(folder / name, each.layer.size_bytes, names[-1] if names else None)
        _fill(folder / name, image.spans(own_pieces(each)))
        names.append(name)
        watch(number * image.size_bytes, total_bytes)
    return names


def _file_name(each: OpenLayer) -> str:
    """A snapshot's name, as far as a file can have it."""
    name = each.layer.name or "top" if not each.layer.is_sealed else each.layer.name or "layer"
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)


def own_pieces(each: OpenLayer) -> list[ImagePiece]:
    """What a layer has itself, in order."""
    end = each.layer.size_bytes
    pieces = [
        ImagePiece(first * BLOCK_BYTES, min(until * BLOCK_BYTES, end) - first * BLOCK_BYTES, fd, end)
        for blocks, fd in ((each.states.present, each.data_fd), (each.states.zero, None))
        for first, until in blocks.runs()
    ]
    return sorted(pieces, key=lambda piece: piece.offset)


def _fill(path: Path, spans: Iterator[Span]) -> None:
    """Write spans into an image through qemu-nbd, and have all of it on the disk."""
    nbd = QemuNbd(path, "qcow2", read_only=False, direct=False)
    try:
        for span in spans:
            if span.data is not None:
                nbd.client.send(CMD_WRITE, span.offset_bytes, span.size_bytes, span.data)
                nbd.client.receive()
                continue
            for at in range(0, span.size_bytes, _MAX_ZEROES_BYTES):
                length = min(_MAX_ZEROES_BYTES, span.size_bytes - at)
                nbd.client.send(CMD_WRITE_ZEROES, span.offset_bytes + at, length)
                nbd.client.receive()
        nbd.client.send(CMD_FLUSH, 0, 0)
        nbd.client.receive()
    except NbdError as error:
        raise nbd.explain(error) from error
    finally:
        nbd.close()


def import_chain(top: Path, folder: Path, base: str | None, watch: Watch) -> list[str]:
    """Make an overlay of a chain of qcow2 images, a snapshot of each; their names.

    The lowest image is the base if it is a raw one. Otherwise `base` is a raw image with the same content.
    The overlay is there whole or not at all. Raises `ImageError`, `OSError`.
    """
    chain = describe_chain(top, "qcow2")
    lowest = chain.pop()
    if lowest.image_format != "raw" and base is None:
        raise ImageError(
            f"{lowest.path}: is a {lowest.image_format} image: import it into a raw one, and give --base"
        )
    base = base or lowest.path
    if not chain:
        raise ImageError("is one image alone: import it into a raw one")
    partial = PartialFolder(folder)
    try:
        create_overlay(partial.path, base, lowest.size_bytes)
        if os.path.realpath(base) != os.path.realpath(lowest.path):
            _compare(base, lowest)
        names: list[str] = []
        for image in reversed(chain):
            names.append(_name(image, names))
            _import_image(partial.path, image, names[-1])
            watch(len(names), len(chain))
        partial.commit()
    except BaseException:
        partial.discard()
        raise
    return names


def _name(image: ChainImage, taken: list[str]) -> str:
    """A name for the snapshot that an image becomes: its file's."""
    stem = Path(image.path).stem
    while len(stem.encode()) > MAX_NAME_BYTES - 8:
        stem = stem[:-1]
    return next(
        name for name in (stem, *(f"{stem}-{number}" for number in range(2, 1 << 20))) if name not in taken
    )


def _import_image(folder: Path, image: ChainImage, name: str) -> None:
    """What an image has of its own, as a snapshot more."""
    marks = BlockMarks(block_count(image.size_bytes))
    zero_marks = BlockMarks(block_count(image.size_bytes))
    for extent in map_extents(Path(image.path), image.image_format):
        if extent.depth == 0 and extent.present:
            first, until = extent.start // BLOCK_BYTES, block_count(extent.start + extent.length)
            # A block of which a part is data, or another image's, is read as a whole.
            is_whole = extent.zero and not (extent.start % BLOCK_BYTES or extent.length % BLOCK_BYTES)
            (zero_marks if is_whole else marks).add(first, min(until, block_count(image.size_bytes)))
    present = marks.result()
    with OverlayHold(str(folder)) as hold, hold.new_snapshot(name, image.size_bytes) as writer:
        for offset, data in _read_blocks(image, present):
            writer.write(offset, data)
        for first, until in (zero_marks.result() - present).runs():
            end = min(until * BLOCK_BYTES, image.size_bytes)
            writer.write_zeroes(first * BLOCK_BYTES, end - first * BLOCK_BYTES)


def _read_blocks(image: ChainImage, blocks: BlockSet) -> Iterator[tuple[int, memoryview]]:
    """What an image reads as there; each piece is good until the next."""
    buffer = memoryview(mmap(-1, _MAX_WRITE_BYTES))
    nbd = QemuNbd(Path(image.path), image.image_format, read_only=True, direct=False)
    try:
        for first, until in blocks.runs():
            end = min(until * BLOCK_BYTES, image.size_bytes)
            for offset in range(first * BLOCK_BYTES, end, _MAX_WRITE_BYTES):
                length = min(_MAX_WRITE_BYTES, end - offset)
                nbd.client.send(CMD_READ, offset, length, buffer)
                nbd.client.receive()
                yield offset, buffer[:length]
    except NbdError as error:
        raise nbd.explain(error) from error
    finally:
        nbd.close()


def _compare(base: str, lowest: ChainImage) -> None:
    """See that a raw image has what an image of a chain has. Raises `ImageError`."""
    with open(base, "rb") as file:
        if os.fstat(file.fileno()).st_size not in (0, lowest.size_bytes):
            raise ImageError(f"{base}: has another size than {lowest.path}, {lowest.size_bytes} bytes")
        whole = BlockSet.of_range(0, block_count(lowest.size_bytes))
        for offset, data in _read_blocks(lowest, whole):
            file.seek(offset)
            if file.read(len(data)) != data:
                raise ImageError(f"{base}: has not the content of {lowest.path}: it differs near {offset}")
