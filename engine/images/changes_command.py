"""What `ringblk image` does with a folder that tracks the changes of an image (docs/changes.md)."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from ringblk.engine.base.printable_text import printable, utf8_text
from ringblk.engine.images.error import ImageError
from ringblk.workers.changes.tracker_folder import REGIONS, START, TrackerFolder
from ringblk.workers.changes.tracker_form import TrackerDamaged
from ringblk.workers.layers.block_set import BlockSet
from ringblk.workers.layers.changed_blocks import extents_of
from ringblk.workers.layers.extent import Extent

MAX_NAME_BYTES = 192


class PointInfo(msgspec.Struct):
    """A point from which changes are told."""

    name: str
    time_ns: int
    """When it was set, in nanoseconds since 1970."""


class TrackerInfo(msgspec.Struct):
    """A folder that tracks changes."""

    path: str
    size_bytes: int
    """Of the drive."""
    points: list[PointInfo]


def is_tracker(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder that tracks changes."""
    return os.path.isfile(os.path.join(path, REGIONS))


def add_parsers(commands: Any) -> list[argparse.ArgumentParser]:
    """Add the command that is for them alone; the parsers."""
    point = commands.add_parser("point", help="have a point from which changes of an image are told")
    point.add_argument("image", metavar="FOLDER", help="what --track-changes names")
    point.add_argument("name", metavar="NAME", help="of the point")
    point.add_argument("--remove", action="store_true", help="have none of this name any more")
    return [point]


@contextmanager
def _opened(path: str) -> Iterator[TrackerFolder]:
    try:
        folder = TrackerFolder(path)
        try:
            yield folder
        finally:
            folder.close()
    except TrackerDamaged as error:
        raise ImageError(f"{path}: {error}") from None


def set_point(arguments: argparse.Namespace) -> None:
    """`point`: from now on, or with `--remove` no more."""
    if not arguments.name or len(arguments.name.encode()) > MAX_NAME_BYTES:
        raise ImageError(f"a point's name has from 1 to {MAX_NAME_BYTES} bytes")
    with _opened(arguments.image) as folder:
        if arguments.remove:
            folder.remove_point(arguments.name)
        else:
            folder.set_point(arguments.name)


def changed_extents(path: str, since: str) -> list[Extent]:
    """What may have changed since a point. Raises `ImageError`, `OSError`."""
    with _opened(path) as folder:
        blocks = BlockSet.of_bitmap(folder.changed_since(since))
        return extents_of(blocks, folder.tracker.size_bytes)


def diff(arguments: argparse.Namespace) -> None:
    """`diff` of it: the extents that have changed."""
    if arguments.snapshot is not None:
        raise ImageError("an image has no snapshots: what has changed is told as of now")
    print_extents(changed_extents(arguments.image, arguments.since or START), is_json=arguments.json)


def print_extents(extents: list[Extent], *, is_json: bool) -> None:
    """Lines of offset and length, or JSON."""
    if is_json:
        print(msgspec.json.encode(extents).decode())
        return
    for extent in extents:
        print(f"{extent.offset} {extent.length}")


def info(arguments: argparse.Namespace) -> None:
    """`info` of it: its points."""
    path = os.fspath(arguments.image)
    with _opened(path) as folder:
        points = [PointInfo(point.name, point.time_ns) for point in folder.points()]
        found = TrackerInfo(utf8_text(path), folder.tracker.size_bytes, points)
    if arguments.json:
        print(msgspec.json.format(msgspec.json.encode(found)).decode())
        return
    lines = [("tracks changes", found.path), ("size", f"{found.size_bytes} bytes"), ("point", START)]
    lines += [("point", point.name) for point in found.points]
    print("\n".join(f"{name:<15} {printable(value)}" for name, value in lines))
