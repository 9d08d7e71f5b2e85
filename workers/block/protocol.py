"""The block protocol as driver and device both know it (virtio 1.2, 5.2).

`request.pxd` is its compiled twin: a name that stands there and here has one value. A sector's size is the
storage's: `SECTOR_BYTES` of `workers/backends/topology.py`.
"""

import enum

# Feature bits as masks (5.2.3).
F_SEG_MAX = 1 << 2
F_RO = 1 << 5
F_BLK_SIZE = 1 << 6
F_FLUSH = 1 << 9
F_TOPOLOGY = 1 << 10
F_CONFIG_WCE = 1 << 11
F_MQ = 1 << 12
F_DISCARD = 1 << 13
F_WRITE_ZEROES = 1 << 14


class RequestType(enum.IntEnum):
    """The `type` field of a virtio-blk request (virtio 1.2, 5.2.6)."""

    IN = 0
    OUT = 1
    FLUSH = 4
    GET_ID = 8
    DISCARD = 11
    WRITE_ZEROES = 13


class RequestStatus(enum.IntEnum):
    """The status byte of a virtio-blk request (virtio 1.2, 5.2.6), and what stands there before."""

    OK = 0
    IOERR = 1
    UNSUPP = 2
    NOT_WRITTEN = 0xFF


SEGMENT_F_UNMAP = 1
"""A flag of WRITE_ZEROES: the device may give the space back."""
DRIVE_ID_BYTES = 20

# What this device says in its config space of DISCARD and WRITE_ZEROES, and holds requests to (5.2.4).
MAX_SEGMENTS = 16
"""Ranges of one request."""
MAX_DISCARD_SECTORS = 0x200000
"""Of one range: 1 GiB."""
MAX_WRITE_ZEROES_SECTORS = 0x20000
"""Of one range, which may have to be written: 64 MiB."""
