"""A small record that is replaced as a whole: who is killed while writing leaves the old one or the new one.

There are two slots, each with a sequence number and a checksum. A writer fills the one that is not the
newest; a reader takes the newest whose checksum is right. There is one writer at a time.
"""

import struct
import zlib

MAGIC = b"RINGNOTE"
VERSION = 1
"""Of the slots; what is in a payload is told apart by its own fields."""
SLOT_BYTES = 2048
RECORD_BYTES = 2 * SLOT_BYTES
_HEADER = struct.Struct("<8sIIQI4x")  # magic, version, payload length, sequence, checksum of all of these
MAX_PAYLOAD_BYTES = SLOT_BYTES - _HEADER.size
"""Of a record of the usual size."""


def record_bytes_for(payload_bytes: int) -> int:
    """How large a record is that has room for so much: the usual size, or more."""
    return 2 * SLOT_BYTES * max(1, -(-(payload_bytes + _HEADER.size) // SLOT_BYTES))


def newest(data: bytes) -> tuple[int, bytes] | None:
    """Sequence number and payload of the newest whole record in these two slots; None: there is none."""
    half = max(SLOT_BYTES, len(data) // 2)  # one of the usual size may have been cut off
    found = [slot for part in (data[:half], data[half:]) if (slot := _read_slot(part))]
    return max(found) if found else None


def next_slot(data: bytes, payload: bytes) -> tuple[int, bytes]:
    """Where to write what, to put a payload in place of the newest one.

    Raises `ValueError` for a payload that the slots are too small for.
    """
    slot_bytes = len(data) // 2
    if len(payload) > slot_bytes - _HEADER.size:
        raise ValueError(f"a record of {len(payload)} bytes, and at most {slot_bytes - _HEADER.size} fit")
    former = newest(data)
    return slot_of(former[0] + 1 if former else 1, payload, slot_bytes)


def slot_of(sequence: int, payload: bytes, slot_bytes: int) -> tuple[int, bytes]:
    """Where to write what, so that it is the newest after `sequence - 1`, which was the newest before."""
    checksum = _checksum(sequence, payload)
    return sequence % 2 * slot_bytes, _HEADER.pack(MAGIC, VERSION, len(payload), sequence, checksum) + payload


def _read_slot(slot: bytes) -> tuple[int, bytes] | None:
    if len(slot) < _HEADER.size:
        return None
    magic, version, length_bytes, sequence, checksum = _HEADER.unpack_from(slot)
    payload = slot[_HEADER.size : _HEADER.size + length_bytes]
    if (magic, version) != (MAGIC, VERSION) or len(payload) != length_bytes:
        return None
    return (sequence, payload) if _checksum(sequence, payload) == checksum else None


def _checksum(sequence: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(_HEADER.pack(MAGIC, VERSION, len(payload), sequence, 0)))
