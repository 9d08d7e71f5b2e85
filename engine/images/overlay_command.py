"""What `ringblk image` does with overlays; each function carries out one command."""

import argparse
import os
from pathlib import Path
from typing import Any

import msgspec

from ringblk.engine.base.printable_text import printable
from ringblk.engine.images.changes_command import print_extents
from ringblk.engine.images.delta_export import export_delta
from ringblk.engine.images.delta_form import MAGIC, is_delta
from ringblk.engine.images.delta_import import import_delta
from ringblk.engine.images.error import ImageError
from ringblk.engine.images.overlay import OverlayImage
from ringblk.engine.images.overlay_base import rebase
from ringblk.engine.images.overlay_check import check_overlay
from ringblk.engine.images.overlay_commit import commit
from ringblk.engine.images.overlay_create import create_overlay
from ringblk.engine.images.overlay_diff import changed_since
from ringblk.engine.images.overlay_info import overlay_lines, read_overlay_info
from ringblk.engine.images.progress import CopyProgress, format_bytes
from ringblk.engine.images.qcow2_chain import export_chain, import_chain
from ringblk.workers.layers.changed_blocks import extents_of


def add_parsers(commands: Any) -> list[argparse.ArgumentParser]:
    """Add the commands that are for overlays alone; the parsers."""
    diff = commands.add_parser(
        "diff", help="say what has changed in an overlay since a snapshot or its base, or in an image"
    )
    diff.add_argument("image", metavar="OVERLAY")
    add_states(diff)
    diff.add_argument("--json", action="store_true", help="print JSON")
    check = commands.add_parser("check", help="look for what is wrong with an overlay")
    check.add_argument("image", metavar="OVERLAY")
    check.add_argument("--repair", action="store_true", help="repair what can be repaired")
    commit_parser = commands.add_parser("commit", help="write what an overlay has into its base")
    rebase_parser = commands.add_parser(
        "rebase", help="have an overlay lie on another base, and read the same"
    )
    flatten_parser = commands.add_parser("flatten", help="have an overlay lie on no base, and read the same")
    for parser in (commit_parser, rebase_parser, flatten_parser):
        parser.add_argument("image", metavar="OVERLAY")
        parser.add_argument("--quiet", action="store_true", help="no progress bar and no summary")
    rebase_parser.add_argument("--base", metavar="FILE", required=True, help="a raw image or a block device")
    rebase_parser.add_argument(
        "--moved", action="store_true", help="take it for the same as the old one, which need not be there"
    )
    return [diff, check, commit_parser, rebase_parser, flatten_parser]


def add_states(parser: argparse.ArgumentParser) -> None:
    """The options that say which states of an overlay are meant."""
    parser.add_argument("--since", metavar="SNAPSHOT", help="a snapshot of the overlay, or base")
    parser.add_argument(
        "--snapshot", metavar="SNAPSHOT", help="the overlay as it was then (default: as it is)"
    )


def create(arguments: argparse.Namespace) -> None:
    """`create --base`: an overlay without blocks."""
    create_overlay(arguments.image, arguments.base, arguments.size, arguments.base_snapshot)


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
        extents = extents_of(changed_since(image, arguments.since or "base"), image.size_bytes)
    print_extents(extents, is_json=arguments.json)


def check(arguments: argparse.Namespace) -> None:
    """`check`: what is wrong, a line each. Raises `ImageError` where anything is left."""
    findings = check_overlay(arguments.image, repair=arguments.repair)
    for finding in findings:
        after = (
            ": repaired"
            if finding.is_repaired
            else ": --repair repairs it"
            if finding.can_be_repaired
            else ""
        )
        print(printable(f"{finding.what}{after}"))
    if left := [finding for finding in findings if not finding.is_repaired]:
        things = "a thing is" if len(left) == 1 else f"{len(left)} things are"
        raise ImageError(f"{arguments.image}: {things} wrong with it")


def commit_changes(arguments: argparse.Namespace) -> None:
    """`commit`: down into the base."""
    with CopyProgress("commit", quiet=arguments.quiet) as progress:
        written = commit(arguments.image, lambda done, total: progress.update(done, total, done))
    if not arguments.quiet:
        print(f"{format_bytes(written)} written to the base")


def change_base(arguments: argparse.Namespace) -> None:
    """`rebase` and `flatten`: onto another base, or none."""
    new_base = arguments.base if arguments.image_command == "rebase" else None
    is_moved = new_base is not None and arguments.moved
    with CopyProgress(arguments.image_command, quiet=arguments.quiet) as progress:
        copied = rebase(
            arguments.image,
            new_base,
            lambda done, total: progress.update(done, total, done),
            is_moved=is_moved,
        )
    if not arguments.quiet:
        print(f"{copied} blocks copied")


def export_as_chain(arguments: argparse.Namespace) -> None:
    """`export --chain`: a qcow2 image for each layer."""
    if (
        arguments.format not in (None, "qcow2")
        or arguments.target == "-"
        or arguments.force
        or arguments.verify
    ):
        raise ImageError("a chain goes into a folder of qcow2 images, which is not there yet")
    with (
        OverlayImage(arguments.image, arguments.snapshot) as image,
        CopyProgress("export", quiet=arguments.quiet) as progress,
    ):
        target = Path(os.path.realpath(arguments.target))
        names = export_chain(image, target, lambda done, total: progress.update(done, total, done))
    if not arguments.quiet:
        print("\n".join(printable(name) for name in names))


def import_as_chain(arguments: argparse.Namespace) -> None:
    """`import --chain`: an overlay with a snapshot for each image."""
    if (
        arguments.format not in (None, "qcow2")
        or arguments.force
        or arguments.verify
        or arguments.source == "-"
    ):
        raise ImageError("a chain is a qcow2 image on others, and becomes an overlay that is not there yet")
    with CopyProgress("import", quiet=arguments.quiet) as progress:
        names = import_chain(
            Path(arguments.source),
            Path(os.path.realpath(arguments.image)),
            arguments.base,
            lambda done, total: progress.update(done, total, done),
        )
    if not arguments.quiet:
        print("\n".join(f"snapshot {printable(name)}" for name in names))


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
