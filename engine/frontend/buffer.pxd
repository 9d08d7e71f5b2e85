from libc.stdint cimport uint32_t, uint64_t


cdef class Buffer:
    cdef object _memory                     # FrontendMemory; None in a part
    cdef Buffer _whole                      # of a part: what it is a part of
    cdef object _view                       # memoryview
    cdef readonly uint64_t gpa
    cdef readonly uint64_t size_bytes
    cdef readonly uint32_t inflight_count   # requests that use it
    cdef readonly bint released

    cdef void take(self)
    cdef void give_back(self)
