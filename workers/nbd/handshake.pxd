from libc.stdint cimport uint32_t, uint64_t

cdef extern from "<libnbd.h>" nogil:
    cdef struct nbd_handle:
        pass

cdef struct ExportFacts:
    # What a server says of an export; `can_`: the server takes such requests.
    uint64_t size_bytes
    uint64_t minimum_bytes    # of a request, and what offsets are multiples of
    uint64_t preferred_bytes  # 0: nothing known
    uint64_t maximum_bytes    # of a request with data
    bint is_read_only
    bint can_flush
    bint can_fua
    bint can_trim
    bint can_zero
    bint can_multi_conn       # a flush on one connection is for what was written through all


cdef class Handshake:
    cdef bytes export_name
    cdef const char *name
    cdef nbd_handle *handle
    cdef ExportFacts facts             # of the last that went well
    cdef readonly str fault            # why the last has failed; empty: the number says all there is to say

    cdef int begin(self, const char *sockaddr, uint32_t sockaddr_bytes) noexcept nogil
    cdef int fd(self) noexcept nogil
    cdef uint32_t wanted_events(self) noexcept nogil
    cdef int go_on(self, uint32_t events) noexcept nogil
    cdef int take_socket(self) noexcept nogil
    cdef void drop(self) noexcept nogil
    cdef int _set_up(self) noexcept nogil
    cdef int _read_facts(self) noexcept nogil
