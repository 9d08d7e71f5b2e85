"""What `ringblk image` does with overlays; each function carries out one command."""

import argparse
import os
from pathlib import Path
from typing import Any

import msgspec

from ringblk.engine.base.printable_text import printable
from ringblk.engine.images.delta_export import export_delta
from ringblk.engine.images.delta_form import MAGIC, is_delta
from ringblk.engine.images.delta_import import import_delta
from ringblk.engine.images.error import ImageError
from ringblk.engine.images.overlay import OverlayImage
from ringblk.engine.images.overlay_create import create_overlay
from ringblk.engine.images.overlay_diff import changed_blocks, extents_of
from ringblk.engine.images.overlay_info import overlay_lines, read_overlay_info
from ringblk.engine.images.progress import CopyProgress, format_bytes


def add_parsers(commands: Any) -> list[argparse.ArgumentParser]:
    """Add the commands that are for overlays alone; the parsers."""
    diff = commands.add_parser("diff", help="say what has changed in an overlay since a snapshot or its base")
    diff.add_argument("image", metavar="OVERLAY")
    add_states(diff)
    diff.add_argument("--json", action="store_true", help="print JSON")
    return [diff]


def add_states(parser: argparse.ArgumentParser) -> None:
    """The options that say which states of an overlay are meant."""
    parser.add_argument("--since", metavar="SNAPSHOT", help="a snapshot of the overlay, or base")
    parser.add_argument(
        "--snapshot", metavar="SNAPSHOT", help="the overlay as it was then (default: as it is)"
    )


def create(arguments: argparse.Namespace) -> None:
    """`create --base`: an overlay without blocks."""
    create_overlay(arguments.image, arguments.base, arguments.size)


def info(arguments: argparse.Namespace) -> None:
    """`info` of an overlay."""
    found = read_overlay_info(os.fspath(arguments.image))
    if arguments.json:
        print(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        print("\n".join(f"{name:<15} {printable(value)}" for name, value in overlay_lines(found)))


def diff(arguments: argparse.Namespace) -> None:
    """`diff`: the extents that have changed."""
    with OverlayImage(arguments.image, arguments.snapshot) as image:
        extents = extents_of(changed_blocks(image, arguments.since or "base"), image.size_bytes)
    if arguments.json:
        print(msgspec.json.encode(extents).decode())
        return
    for extent in extents:
        print(f"{extent.offset} {extent.length}")


def export_changes(arguments: argparse.Namespace) -> None:
    """`export --since`: a delta."""
    if arguments.format is not None or arguments.target == "-":
        raise ImageError("a delta has a format of its own, and goes to a file")
    target = Path(os.path.realpath(arguments.target))
    with (
        OverlayImage(arguments.image, arguments.snapshot) as image,
        CopyProgress("export", quiet=arguments.quiet) as progress,
    ):
        data_bytes = export_delta(
            image,
            arguments.since,
            target,
            lambda done, total: progress.update(done, total, done),
            replace=arguments.force,
        )
    if not arguments.quiet:
        print(f"{format_bytes(data_bytes)} of data since {printable(arguments.since)}")


def import_changes(arguments: argparse.Namespace) -> None:
    """`import` of a delta."""
    if arguments.format is not None or arguments.force or arguments.verify:
        raise ImageError(
            "a delta is applied to an overlay: --format, --force and --verify have no meaning there"
        )
    with CopyProgress("import", quiet=arguments.quiet) as progress:
        layer = import_delta(
            Path(arguments.source),
            os.fspath(arguments.image),
            lambda done, total: progress.update(done, total, done),
        )
    if not arguments.quiet:
        print(f"snapshot {printable(layer.name)}" if layer.name else f"layer {layer.layer_id.hex()}")


def is_delta_file(path: str) -> bool:
    """Whether a regular file begins like a delta. Raises `OSError`."""
    if path == "-" or not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return is_delta(file.read(len(MAGIC)))
