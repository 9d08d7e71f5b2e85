"""The form of what tracks a drive's changes: docs/changes.md has it byte by byte."""

import struct
import zlib

import msgspec

VERSION = 1
REGIONS_MAGIC, CHANGES_MAGIC = b"RBREGIO\n", b"RBTRACK\n"
BLOCK_BYTES = 4096
MAX_REGIONS = 16384
REGIONS_FILE_BYTES = 512 + MAX_REGIONS // 8
_MIN_REGION_SHIFT = 26
_PAGE_BYTES = 4096
_HEADER = struct.Struct("<8sIIIIQQ16s16sQq")
_CHECKSUM_OFFSET = 12
CLEAN, OPEN = 0, 1


class TrackerDamaged(Exception):  # noqa: N818
    """What stands there tracks no changes, or not this drive's. The message says what is wrong."""


class RegionsHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What stands at the beginning of the file `regions`."""

    state: int
    """`OPEN` while the drive is served, and after a death; `CLEAN` once it has ended well."""
    size_bytes: int
    session: int
    """How often it was begun."""
    boot_id: bytes
    tracker_id: bytes
    image_inode: int
    """0 of a block device, as is the next."""
    image_modified_ns: int
    """When the image was last written to, as it was left."""

    def encode(self) -> bytes:
        """The first sector."""
        fields = (self.state, 0, self.size_bytes, self.session, self.boot_id, self.tracker_id)
        head = _HEADER.pack(REGIONS_MAGIC, VERSION, 0, *fields, self.image_inode, self.image_modified_ns)
        sector = head.ljust(512, b"\0")
        checksum = zlib.crc32(sector).to_bytes(4, "little")
        return sector[:_CHECKSUM_OFFSET] + checksum + sector[_CHECKSUM_OFFSET + 4 :]

    @staticmethod
    def decode(sector: bytes) -> "RegionsHeader":
        """What it says. Raises `TrackerDamaged`."""
        if len(sector) < 512 or not sector.startswith(REGIONS_MAGIC):
            raise TrackerDamaged("tracks no changes")
        _, version, checksum, state, _, size_bytes, session, boot_id, tracker_id, inode, modified_ns = (
            _HEADER.unpack_from(sector)
        )
        if version != VERSION:
            raise TrackerDamaged(f"has version {version}, and this program knows {VERSION}")
        bare = sector[:_CHECKSUM_OFFSET] + bytes(4) + sector[_CHECKSUM_OFFSET + 4 :]
        if zlib.crc32(bare) != checksum:
            raise TrackerDamaged("is damaged: the checksum of its regions is wrong")
        return RegionsHeader(
            state=state,
            size_bytes=size_bytes,
            session=session,
            boot_id=boot_id,
            tracker_id=tracker_id,
            image_inode=inode,
            image_modified_ns=modified_ns,
        )


class ChangesLayout(msgspec.Struct, frozen=True):
    """Where things are in the file `changes`."""

    map_bytes: int
    map_offsets: tuple[int, int]
    file_bytes: int
    region_shift: int

    @staticmethod
    def of(size_bytes: int) -> "ChangesLayout":
        """For a drive of this size."""
        block_count = -(-size_bytes // BLOCK_BYTES)
        map_bytes = -(-block_count // (8 * _PAGE_BYTES)) * _PAGE_BYTES
        shift = _MIN_REGION_SHIFT
        while (size_bytes - 1) >> shift >= MAX_REGIONS:
            shift += 1
        return ChangesLayout(
            map_bytes, (_PAGE_BYTES, _PAGE_BYTES + map_bytes), _PAGE_BYTES + 2 * map_bytes, shift
        )


def new_changes_head(tracker_id: bytes) -> bytes:
    """What the file `changes` begins with."""
    return struct.pack("<8sII16sQ", CHANGES_MAGIC, VERSION, 0, tracker_id, 0)


def changes_tracker_id(head: bytes) -> bytes:
    """Whose `changes` a file is. Raises `TrackerDamaged`."""
    if len(head) < 40:
        raise TrackerDamaged("has lost its changes")
    magic, version, _, tracker_id, _ = struct.unpack_from("<8sII16sQ", head)
    if magic != CHANGES_MAGIC or version != VERSION:
        raise TrackerDamaged("has lost its changes")
    return bytes(tracker_id)
