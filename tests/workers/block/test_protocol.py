"""The block protocol stands twice, for Python and for compiled code: with the numbers of the standard."""

from ringblk.workers.backends import topology
from ringblk.workers.block import protocol
from ringblk.workers.block.protocol import RequestStatus, RequestType
from tests.rigs.compiled_numbers import compiled_numbers

COMPILED_ONLY = {"HEADER_BYTES": 16}


def protocol_number(name: str) -> int:
    if name in COMPILED_ONLY:
        return COMPILED_ONLY[name]
    kind, _, rest = name.partition("_")
    if kind == "TYPE":
        return RequestType[rest]
    if kind == "STATUS":
        return RequestStatus[rest]
    module = topology if name == "SECTOR_BYTES" else protocol
    number: int = getattr(module, name)
    return number


def test_compiled_code_has_the_same_numbers() -> None:
    found = compiled_numbers("workers/block/request.pxd")
    compiled = {name: value for name, value in found.items() if not name.startswith("OPERATION_")}  # of slots
    assert compiled == {name: protocol_number(name) for name in compiled}
    assert {name for name in compiled if name.startswith("TYPE_")} == {
        f"TYPE_{kind.name}" for kind in RequestType
    }
    assert {name for name in compiled if name.startswith("STATUS_")} == {
        f"STATUS_{status.name}" for status in RequestStatus
    }


def test_the_numbers_are_those_of_the_standard() -> None:
    """Virtio 1.2, 5.2.3 and 5.2.6."""
    bits = {name: value for name, value in vars(protocol).items() if name.startswith("F_")}
    assert bits == {
        "F_SEG_MAX": 1 << 2,
        "F_RO": 1 << 5,
        "F_BLK_SIZE": 1 << 6,
        "F_FLUSH": 1 << 9,
        "F_TOPOLOGY": 1 << 10,
        "F_CONFIG_WCE": 1 << 11,
        "F_MQ": 1 << 12,
        "F_DISCARD": 1 << 13,
        "F_WRITE_ZEROES": 1 << 14,
    }
    assert [int(kind) for kind in RequestType] == [0, 1, 4, 8, 11, 13]
    assert [int(status) for status in RequestStatus] == [0, 1, 2, 0xFF]
    assert (protocol.SEGMENT_F_UNMAP, protocol.DRIVE_ID_BYTES, topology.SECTOR_BYTES) == (1, 20, 512)
