"""`ringblk image manifest`: the digests of an image's pieces, for drives that fetch it from elsewhere."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from ringblk.engine.images.error import ImageError
from ringblk.workers.fetch.manifest import PIECE_BYTES, make_manifest


def add_parsers(commands: Any) -> list[argparse.ArgumentParser]:
    """Add the command; its parsers."""
    manifest = commands.add_parser(
        "manifest", help="tell the digests of a raw image's pieces, for --base-manifest"
    )
    manifest.add_argument("image", type=Path)
    return [manifest]


def print_manifest(arguments: argparse.Namespace) -> None:
    """To standard output. Raises `ImageError` and `OSError`."""
    if os.path.isdir(arguments.image):
        raise ImageError(f"{arguments.image}: is a folder: export the overlay into a raw image first")
    sys.stdout.buffer.write(make_manifest(arguments.image, PIECE_BYTES))
    sys.stdout.buffer.flush()
