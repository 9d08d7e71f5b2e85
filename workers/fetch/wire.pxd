# What a drive's process says to the fetcher, and what that answers: the numbers of workers/fetch/wire.py.

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

cdef enum FetchKind:
    FETCH_READ = 1            # have this range in the cache

cdef enum FetchFlags:
    FETCH_BYTES = 1           # of a request: send the bytes; of an answer: they follow


cdef struct FetchRequest:
    uint32_t kind
    uint32_t flags
    uint8_t layer_id[16]      # which content is meant
    uint64_t offset_bytes
    uint64_t length_bytes


cdef struct FetchReply:
    int32_t status            # 0 or a negative errno
    uint32_t flags
    uint64_t length_bytes     # of what follows
