"""Where the bytes of a memoryview lie.

Not a typed memoryview: its machinery would come into each module that knows the class that has it, over
100 KiB of code and types that are made when the module is imported.
"""

from cpython.memoryview cimport PyMemoryView_GET_BUFFER
from libc.stdint cimport uint8_t


cdef inline uint8_t *address_of(view) except NULL:
    """The first byte; it stays there for as long as somebody holds the view."""
    assert type(view) is memoryview and not view.readonly
    return <uint8_t *>PyMemoryView_GET_BUFFER(view).buf
