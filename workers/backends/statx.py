"""What statx(2) says of an open file, for the fields that `os.stat` does not have."""

import ctypes
import struct

DIO_ALIGN = 0x2000
"""Fields of STATX_DIOALIGN (Linux 6.1): stx_dio_mem_align and stx_dio_offset_align."""
BIRTH_TIME = 0x800
"""The field of STATX_BTIME: stx_btime, in seconds and nanoseconds."""
_LAYOUTS = {DIO_ALIGN: ("=II", 152), BIRTH_TIME: ("=qI", 80)}  # in struct statx: form and offset
_AT_EMPTY_PATH = 0x1000
_STATX_BYTES = 256


def read_statx(fd: int, mask: int) -> tuple[int, int] | None:
    """Two numbers of one of the masks above; None where C library, kernel or file system don't say."""
    try:
        statx = ctypes.CDLL(None).statx
    except AttributeError:
        return None
    answer = ctypes.create_string_buffer(_STATX_BYTES)
    if statx(fd, b"", _AT_EMPTY_PATH, mask, answer) != 0:
        return None
    (answered,) = struct.unpack_from("=I", answer)
    if not answered & mask:
        return None
    first, second = struct.unpack_from(_LAYOUTS[mask][0], answer, _LAYOUTS[mask][1])
    return first, second
