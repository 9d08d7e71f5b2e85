"""Formats that images come in, told by their first bytes or by their name."""

import os
from pathlib import Path
from typing import Final, Literal, get_args

ImageFormat = Literal["raw", "qcow2", "vmdk", "vhdx", "gzip", "zstd", "xz"]

FORMATS: Final[tuple[ImageFormat, ...]] = get_args(ImageFormat)
# Read and written by QEMU's programs.
QEMU_FORMATS: Final = frozenset({"qcow2", "vmdk", "vhdx"})
# A raw image as one compressed stream.
COMPRESSIONS: Final = frozenset({"gzip", "zstd", "xz"})

HEAD_BYTES = 64  # enough to tell any of them
VMDK_DESCRIPTOR: Final = b"# Disk DescriptorFile"  # a text that names other files
_MAGICS: Final[tuple[tuple[bytes, ImageFormat], ...]] = (
    (b"QFI\xfb", "qcow2"),
    (b"KDMV", "vmdk"),
    (VMDK_DESCRIPTOR, "vmdk"),
    (b"vhdxfile", "vhdx"),
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\0", "xz"),
)
_SUFFIXES: Final[dict[str, ImageFormat]] = {
    ".qcow2": "qcow2",
    ".vmdk": "vmdk",
    ".vhdx": "vhdx",
    ".gz": "gzip",
    ".zst": "zstd",
    ".xz": "xz",
}


def probe_format(head: bytes) -> ImageFormat:
    """Tell the format from an image's first HEAD_BYTES; what has no known beginning is raw."""
    for magic, image_format in _MAGICS:
        if head.startswith(magic):
            return image_format
    return "raw"


def format_of_name(path: str | os.PathLike[str]) -> ImageFormat:
    """Tell the format from a file's name; what has no known suffix is raw."""
    return _SUFFIXES.get(Path(path).suffix.lower(), "raw")
