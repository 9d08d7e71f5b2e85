# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""INIT: which version of FUSE is spoken, and what of it."""

from libc.errno cimport EPROTO
from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memcpy, memset

from ringblk.workers.fs.protocol cimport (
    FUSE_INIT_EXT, FUSE_KERNEL_MINOR_VERSION, FUSE_KERNEL_VERSION, FUSE_MAP_ALIGNMENT,
    FUSE_MAX_PAGES,
)
from ringblk.workers.fs.wire cimport fuse_init_in, fuse_init_out

cdef enum:
    OLDEST_MINOR_VERSION = 27      # Linux 4.20; virtio-fs came with 5.4 and 7.31
    MAX_WRITE_BYTES = 1 << 20
    PAGE_BYTES = 4096
    CHUNK_BITS = 21                # CHUNK_BYTES of the DAX window


cdef int do_init(Share share, RequestSlot *slot, FolderRequest *request) noexcept nogil:
    """The dispatcher has what was agreed to noted down when it publishes this (`FolderParser.conclude`)."""
    cdef const fuse_init_in *offered = <const fuse_init_in *>request.argument
    cdef fuse_init_out reply
    memset(&reply, 0, sizeof(reply))
    memset(request.text, 0, sizeof(reply))
    reply.major = FUSE_KERNEL_VERSION
    reply.minor = FUSE_KERNEL_MINOR_VERSION
    if offered.major > FUSE_KERNEL_VERSION:   # it asks again, with ours
        return share.give(slot, request, &reply, sizeof(reply))
    if offered.major < FUSE_KERNEL_VERSION or offered.minor < OLDEST_MINOR_VERSION:
        return -EPROTO
    reply.minor = min(offered.minor, <uint32_t>FUSE_KERNEL_MINOR_VERSION)
    reply.max_readahead = offered.max_readahead
    reply.flags = offered.flags & share.init_flags
    if offered.flags & FUSE_INIT_EXT:
        reply.flags2 = offered.flags2 & share.init_flags2
    reply.max_background = 0xFFFF
    reply.congestion_threshold = 0xFFFF // 4 * 3
    reply.max_write = MAX_WRITE_BYTES if reply.flags & FUSE_MAX_PAGES else 32 * PAGE_BYTES
    reply.max_pages = <uint16_t>(MAX_WRITE_BYTES // PAGE_BYTES)
    reply.time_gran = 1
    if reply.flags & FUSE_MAP_ALIGNMENT:
        reply.map_alignment = CHUNK_BITS
    memcpy(request.text, &reply, sizeof(reply))
    return share.give(slot, request, &reply, sizeof(reply))
