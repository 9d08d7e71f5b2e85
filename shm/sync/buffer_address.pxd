"""Where the bytes of a buffer lie.

Not a typed memoryview: its machinery would come into each module that knows the class that has it, over
100 KiB of code and types that are made when the module is imported.
"""

from cpython.buffer cimport PyBUF_WRITABLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.memoryview cimport PyMemoryView_GET_BUFFER
from libc.stdint cimport uint8_t


cdef inline uint8_t *address_of(view) except NULL:
    """The first byte; it stays there for as long as somebody holds the view."""
    assert type(view) is memoryview and not view.readonly
    return <uint8_t *>PyMemoryView_GET_BUFFER(view).buf


cdef inline const uint8_t *look_at(view) except NULL:
    """The same of what may be read only."""
    assert type(view) is memoryview
    return <const uint8_t *>PyMemoryView_GET_BUFFER(view).buf


cdef inline uint8_t *place_in(buffer, size_t offset_bytes, size_t size_bytes, size_t align_bytes,
                              what) except NULL:
    """Where `what` lies at an offset of a writable buffer; it stays there for as long as somebody holds that.

    Raises `ValueError` where there is no room for it or the place is not aligned.
    """
    cdef Py_buffer view
    PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
    cdef uint8_t *place = <uint8_t *>view.buf + offset_bytes
    cdef size_t buffer_bytes = view.len
    PyBuffer_Release(&view)
    if offset_bytes > buffer_bytes or buffer_bytes - offset_bytes < size_bytes:
        raise ValueError(f"{what} takes {size_bytes} bytes")
    if <size_t>place % align_bytes:
        raise ValueError(f"{what} lies on a multiple of {align_bytes} bytes")
    return place
