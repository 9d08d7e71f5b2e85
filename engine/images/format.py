"""Formats that images come in, told by their first and last bytes or by their name.

Three things are told apart. A *container* holds an image in a form of its own: one of the formats that are
read here, or one that is only known by sight. A *raw* image is known by what a disk has at its beginning: a
partition table, a file system, or zeroes. Anything else is not recognised, and its user is asked.
"""

import os
from typing import Final, Literal, NamedTuple, get_args

ImageFormat = Literal[
    "raw",
    "qcow2",
    "qcow",
    "qed",
    "vmdk",
    "vhdx",
    "vhd",
    "vdi",
    "parallels",
    "dmg",
    "bochs",
    "cloop",
    "gzip",
    "zstd",
    "xz",
    "bzip2",
]

FORMATS: Final[tuple[ImageFormat, ...]] = get_args(ImageFormat)
# Read by QEMU's programs, which call one of them otherwise.
QEMU_FORMATS: Final = frozenset(
    {"qcow2", "qcow", "qed", "vmdk", "vhdx", "vhd", "vdi", "parallels", "dmg", "bochs", "cloop"}
)
QEMU_NAMES: Final = {"vhd": "vpc"}
# A raw image as one compressed stream.
COMPRESSIONS: Final = frozenset({"gzip", "zstd", "xz", "bzip2"})
WRITTEN_FORMATS: Final[tuple[ImageFormat, ...]] = (
    "raw",
    "qcow2",
    "vmdk",
    "vhdx",
    "vhd",
    "vdi",
    "gzip",
    "zstd",
    "xz",
    "bzip2",
)

HEAD_BYTES = 69632  # whole blocks, and enough to see every beginning below
CONTAINER_HEAD_BYTES = 512  # and this much to see that of a container
TAIL_BYTES = 512
VMDK_DESCRIPTOR: Final = b"# Disk DescriptorFile"  # a text that names other files


class Magic(NamedTuple):
    """Bytes that stand at an offset of what is called `name`."""

    offset_bytes: int
    magic: bytes
    name: str


_UNPACK = "unpack it first"
UNREADABLE: Final[dict[str, str]] = {
    "LUKS": "open it with cryptsetup, and take the device",
    "zip": _UNPACK,
    "tar": _UNPACK,
    "7z": _UNPACK,
    "rar": _UNPACK,
    "lz4": _UNPACK,
    "lzip": _UNPACK,
    "lzma": _UNPACK,
    "lzop": _UNPACK,
    "compress": _UNPACK,
    "xar": _UNPACK,
}
"""Containers that are known by sight only, and what is to be done with them."""

_CONTAINERS: Final = (
    Magic(0, b"QFI\xfb\0\0\0\x01", "qcow"),
    Magic(0, b"QFI\xfb", "qcow2"),
    Magic(0, b"QED\0", "qed"),
    Magic(0, b"KDMV", "vmdk"),
    Magic(0, VMDK_DESCRIPTOR, "vmdk"),
    Magic(0, b"COWD", "vmdk"),
    Magic(0, b"vhdxfile", "vhdx"),
    Magic(0, b"conectix", "vhd"),
    Magic(64, b"\x7f\x10\xda\xbe", "vdi"),
    Magic(0, b"WithoutFreeSpace", "parallels"),
    Magic(0, b"WithouFreSpacExt", "parallels"),
    Magic(0, b"Bochs Virtual HD Image\0", "bochs"),
    Magic(0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop", "cloop"),
    Magic(0, b"LUKS\xba\xbe", "LUKS"),
    Magic(0, b"\x1f\x8b\x08", "gzip"),
    Magic(0, b"\x28\xb5\x2f\xfd", "zstd"),
    *(Magic(0, bytes([0x50 + kind]) + b"\x2a\x4d\x18", "zstd") for kind in range(16)),  # a skippable frame
    Magic(0, b"\xfd7zXZ\0", "xz"),
    *(Magic(0, b"BZh%d\x31\x41\x59\x26\x53\x59" % level, "bzip2") for level in range(1, 10)),
    *(Magic(0, b"BZh%d\x17\x72\x45\x38\x50\x90" % level, "bzip2") for level in range(1, 10)),  # an empty one
    Magic(0, b"PK\x03\x04", "zip"),
    Magic(0, b"PK\x05\x06", "zip"),  # an empty one
    Magic(0, b"7z\xbc\xaf\x27\x1c", "7z"),
    Magic(0, b"Rar!\x1a\x07", "rar"),
    Magic(0, b"\x04\x22\x4d\x18", "lz4"),
    Magic(0, b"LZIP\x01", "lzip"),
    Magic(0, b"\x5d\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff", "lzma"),
    Magic(0, b"\x89LZO\0\r\n\x1a\n", "lzop"),
    Magic(0, b"\x1f\x9d\x90", "compress"),
    Magic(0, b"xar!", "xar"),
    Magic(257, b"ustar", "tar"),
)
_DISKS: Final = (
    Magic(510, b"\x55\xaa", "partition table"),  # or the boot sector of FAT and NTFS
    Magic(512, b"EFI PART", "partition table"),
    Magic(4096, b"EFI PART", "partition table"),
    Magic(512, b"PM\0\0", "Apple partition map"),
    Magic(512, b"\x57\x45\x56\x82", "BSD disk label"),
    *(Magic(sector * 512, b"LABELONE", "LVM") for sector in range(4)),
    *(Magic(start, b"\xfc\x4e\x2b\xa9", "Linux RAID") for start in (0, 4096)),
    Magic(1080, b"\x53\xef", "ext"),
    Magic(0, b"XFSB", "XFS"),
    Magic(65600, b"_BHRfS_M", "btrfs"),
    Magic(4120, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca", "bcachefs"),
    Magic(1024, b"\x10\x20\xf5\xf2", "f2fs"),
    Magic(1024, b"\xe2\xe1\xf5\xe0", "erofs"),
    Magic(0, b"hsqs", "squashfs"),
    Magic(32769, b"CD001", "ISO 9660"),
    *(Magic(size - 10, b"SWAPSPACE2", "swap") for size in (4096, 16384, 65536)),
    Magic(1024, b"H+\0\x04", "HFS+"),
    Magic(1024, b"HX\0\x05", "HFS+"),
    Magic(32, b"NXSB", "APFS"),
)
_SUFFIXES: Final[dict[str, ImageFormat]] = {
    ".raw": "raw",
    ".img": "raw",
    ".iso": "raw",
    ".dd": "raw",
    ".qcow2": "qcow2",
    ".vmdk": "vmdk",
    ".vhdx": "vhdx",
    ".vhd": "vhd",
    ".vdi": "vdi",
    ".gz": "gzip",
    ".zst": "zstd",
    ".xz": "xz",
    ".bz2": "bzip2",
}


def find_container(head: bytes, tail: bytes) -> str | None:
    """Name the container that begins with `head` (CONTAINER_HEAD_BYTES, or all) and ends with `tail`.

    `tail` is its last TAIL_BYTES. The name is one of FORMATS or of UNREADABLE.
    """
    for magic in _CONTAINERS:
        if head.startswith(magic.magic, magic.offset_bytes):
            return magic.name
    return find_trailer(tail)


def find_trailer(tail: bytes) -> str | None:
    """Name the container whose header stands at its end: a fixed VHD, whose data come first, or a DMG."""
    if tail.startswith(b"koly\0\0\0\x04\0\0\x02\0"):
        return "dmg"
    footer = tail[1:] + b"\0" if tail.startswith(b"conectix", 1) else tail  # old ones lack the last byte
    if len(footer) == TAIL_BYTES and footer.startswith(b"conectix"):
        total = sum(footer) - sum(footer[64:68])  # the checksum leaves itself out
        if int.from_bytes(footer[64:68], "big") == ~total & 0xFFFFFFFF:
            return "vhd"
    return None


def is_disk(head: bytes) -> bool:
    """Whether a raw image begins like this (HEAD_BYTES, or all): partitions, a file system, or zeroes."""
    return any(head.startswith(magic.magic, magic.offset_bytes) for magic in _DISKS) or not head.strip(b"\0")


def format_of_name(path: str | os.PathLike[str]) -> ImageFormat | None:
    """Tell the format from a file's name; None if it says none."""
    return _SUFFIXES.get(os.path.splitext(path)[1].lower())


def content_format_of_name(path: str | os.PathLike[str]) -> ImageFormat | None:
    """Tell what a compressed file's name says of its content: "disk.qcow2.gz" is a qcow2 image's."""
    return format_of_name(os.path.splitext(path)[0])
