# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The DAX window: files mapped into the guest's address space (virtio 1.2, 5.11.6.4), by the front end.

The guest asks for a piece of a file at an offset of the window (SETUPMAPPING), the front end is asked to map it there
(SHMEM_MAP, or FS_MAP as it was before; with the file's descriptor) and answers. The dispatcher asks, on the channel that the session was given, and
a request is pending until the last of its answers has come; the control plane goes on serving the front end, which may
say anything meanwhile. Answers come in the order of what was asked. What is mapped where is in the share's memory, as is
how many answers are still to come: the next dispatcher passes over those of one that has died, and does its requests again.

The window is of chunks, as Linux asks for them. A front end refuses what is mapped already, so that is unmapped first.
"""

import os
import select

from libc.errno cimport EAGAIN, EBUSY, EINTR, EINVAL, EIO, ENOSYS
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from ringblk.shm.platform.folder_calls cimport S_IFREG
from ringblk.shm.platform.window_channel cimport receive_answer, send_mapping
from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.workers.fs.open_inodes cimport ACCESS_WRITE
from ringblk.workers.fs.request cimport (
    CHUNK_BYTES, CHUNK_CHANGING, CHUNK_FREE, CHUNK_MAPPED, WINDOW_CHUNK_LIMIT, window_chunks,
)
from ringblk.workers.fs.share cimport BUFFER_BYTES
from ringblk.workers.fs.wire cimport fuse_removemapping_in, fuse_removemapping_one, fuse_setupmapping_in

cdef enum:
    PAGE_BYTES = 4096


cdef class Window:
    """The window of a share, in its dispatcher."""

    def __cinit__(self, Share share, uint64_t size_bytes):
        self.share = share
        self.chunks = window_chunks(share.header)
        self.size_bytes = min(size_bytes, <uint64_t>WINDOW_CHUNK_LIMIT * CHUNK_BYTES)
        self.channel_fd = -1
        self.ready_fd = -1
        self.expected = <ExpectedAnswer *>calloc(EXPECTED_LIMIT, sizeof(ExpectedAnswer))
        self.progress = <MappingProgress *>calloc(share.state.slot_count, sizeof(MappingProgress))
        self.done = <uint32_t *>calloc(share.state.slot_count, sizeof(uint32_t))
        if self.expected == NULL or self.progress == NULL or self.done == NULL:
            raise MemoryError

    def __init__(self, Share share, uint64_t size_bytes):
        self.ready = select.epoll()
        self.ready_fd = self.ready.fileno()

    def __dealloc__(self):
        free(self.expected)
        free(self.progress)
        free(self.done)

    def set_channel(self, int fd, bint is_new, bint is_legacy):
        """Ask on this channel from now on; it is ours. `is_new`: its front end has mapped nothing yet.

        `is_legacy` (of a new one): it knows FS_MAP and FS_UNMAP alone.
        """
        if self.channel_fd >= 0:
            with nogil:
                self._give_up()
            self._hang_up()
        self.channel_fd = fd
        self.reply_bytes = 0
        if is_new:
            memset(self.chunks, 0, WINDOW_CHUNK_LIMIT * sizeof(WindowChunk))
            self.share.header.window_asked = self.share.header.window_answered = 0
            self.share.header.window_is_legacy = is_legacy
        self.stale_count = self.share.header.window_asked - self.share.header.window_answered
        self.ready.register(fd, select.EPOLLIN)

    cdef void _hang_up(self) noexcept:
        """The channel is closed, or another is in its place: nothing is asked, and nothing looked for, there."""
        self.ready.unregister(self.channel_fd)
        os.close(self.channel_fd)
        self.channel_fd = -1

    def give_up(self):
        """Wait for no answers any more: what is pending fails. Their chunks are unmapped before they are used again."""
        with nogil:
            self._give_up()

    cdef bint is_pending(self, uint32_t slot_index) noexcept nogil:
        return self.progress[slot_index].left != 0

    cdef int set_up(self, uint32_t slot_index) noexcept nogil:
        """Begin a SETUPMAPPING: 0 or a negative errno; it is pending if it waits for answers."""
        cdef FolderRequest *request = &self.share.requests[slot_index]
        cdef const fuse_setupmapping_in *argument = <const fuse_setupmapping_in *>request.argument
        cdef uint32_t chunk_index = <uint32_t>(argument.moffset // CHUNK_BYTES)
        cdef WindowChunk *chunk
        cdef int error, fd
        if self.channel_fd < 0:
            return -ENOSYS
        if argument.moffset % CHUNK_BYTES or argument.foffset % PAGE_BYTES or argument.len == 0 \
                or argument.len > CHUNK_BYTES or argument.len % PAGE_BYTES \
                or argument.moffset >= self.size_bytes or request.node.mode != <uint32_t>S_IFREG:
            return -EINVAL
        chunk = &self.chunks[chunk_index]
        if chunk.state == CHUNK_MAPPED and chunk.node_id == request.header.nodeid \
                and chunk.file_offset_bytes == argument.foffset and chunk.length_bytes >= argument.len:
            return 0
        fd = self.share.fd_of(request, ACCESS_WRITE)   # front ends take none that is only to be read
        if fd < 0:
            return fd
        self.progress[slot_index].error = 0
        if chunk.state != CHUNK_FREE:
            error = self._ask(slot_index, chunk_index, -1, CHUNK_BYTES, False, False)
            if error:
                return error
        chunk.node_id = request.header.nodeid
        chunk.file_offset_bytes = argument.foffset
        chunk.length_bytes = argument.len
        return self._ask(slot_index, chunk_index, fd, argument.len, True, True)

    cdef int remove(self, uint32_t slot_index) noexcept nogil:
        """Begin a REMOVEMAPPING, in the same way. What is not mapped is removed."""
        cdef RequestSlot *slot = &self.share.state.slots[slot_index]
        cdef const fuse_removemapping_in *argument = <const fuse_removemapping_in *>self.share.requests[slot_index].argument
        cdef fuse_removemapping_one *one = <fuse_removemapping_one *>self.share.buffer
        cdef uint64_t offset_bytes
        cdef uint32_t index
        cdef int error
        if self.channel_fd < 0:
            return -ENOSYS
        self.share.gather(slot, self.share.buffer, BUFFER_BYTES)
        self.progress[slot_index].error = 0
        for index in range(argument.count):
            if one[index].moffset % CHUNK_BYTES or one[index].moffset > self.size_bytes \
                    or one[index].len > self.size_bytes - one[index].moffset:
                return -EINVAL if self.progress[slot_index].left == 0 else 0
            offset_bytes = one[index].moffset
            while offset_bytes < one[index].moffset + one[index].len:
                if self.chunks[offset_bytes // CHUNK_BYTES].state != CHUNK_FREE:
                    error = self._ask(slot_index, <uint32_t>(offset_bytes // CHUNK_BYTES), -1, CHUNK_BYTES, False, False)
                    if error:
                        return error if self.progress[slot_index].left == 0 else 0
                offset_bytes += CHUNK_BYTES
        return 0

    cdef int _ask(self, uint32_t slot_index, uint32_t chunk_index, int fd, uint64_t length_bytes, bint is_map,
                  bint counts) noexcept nogil:
        """Ask the front end for one thing; its answer is expected from now on."""
        cdef WindowChunk *chunk = &self.chunks[chunk_index]
        cdef ExpectedAnswer *answer = &self.expected[self.tail % EXPECTED_LIMIT]
        cdef int error
        cdef uint32_t state = chunk.state
        if self.tail - self.head >= <uint32_t>EXPECTED_LIMIT:
            return -EBUSY
        chunk.state = CHUNK_CHANGING   # before the front end can have done anything: the next dispatcher unmaps it first
        self.share.header.window_asked += 1
        crash_point("window: about to ask")
        error = send_mapping(self.channel_fd, self.share.header.window_is_legacy, fd, is_map,
                             chunk.file_offset_bytes if is_map else 0, <uint64_t>chunk_index * CHUNK_BYTES, length_bytes if is_map else chunk.length_bytes)
        if error:
            self.share.header.window_asked -= 1
            chunk.state = state
            return error
        crash_point("window: asked")
        answer.slot_index = slot_index
        answer.chunk_index = chunk_index
        answer.is_map = is_map
        answer.counts = counts
        self.tail += 1
        self.progress[slot_index].left += 1
        return 0

    cdef int reap(self) noexcept nogil:
        """The slot of a request whose last answer has come, with its outcome set; -1: there is none."""
        if self.done_count == 0 and self.channel_fd >= 0:
            self._take_answers()
        if self.done_count == 0:
            return -1
        self.done_count -= 1
        return <int>self.done[self.done_count]

    cdef void _take_answers(self) noexcept nogil:
        cdef uint64_t value = 0
        cdef int result = receive_answer(self.channel_fd, self.reply, &self.reply_bytes, &value)
        while result > 0:
            self._take_answer(value)
            result = receive_answer(self.channel_fd, self.reply, &self.reply_bytes, &value)
        if result < 0 and result != -EAGAIN and result != -EINTR:
            self._give_up()
            with gil:
                self._hang_up()

    cdef void _take_answer(self, uint64_t value) noexcept nogil:
        cdef ExpectedAnswer *answer = &self.expected[self.head % EXPECTED_LIMIT]
        self.share.header.window_answered += 1
        crash_point("window: answered")
        if self.stale_count:
            self.stale_count -= 1
            return
        if self.head == self.tail:
            return    # nobody has asked for it
        self.head += 1
        if answer.is_map:
            self.chunks[answer.chunk_index].state = CHUNK_FREE if value else CHUNK_MAPPED
        else:
            self.chunks[answer.chunk_index].state = CHUNK_FREE
        if self.progress[answer.slot_index].left == 0:
            return    # it was given up
        if value and answer.counts:
            self.progress[answer.slot_index].error = -EIO
        self.progress[answer.slot_index].left -= 1
        if self.progress[answer.slot_index].left == 0:
            self._settle(answer.slot_index)

    cdef void _give_up(self) noexcept nogil:
        cdef uint32_t place, slot_index
        for place in range(self.head, self.tail):
            slot_index = self.expected[place % EXPECTED_LIMIT].slot_index
            if self.progress[slot_index].left:
                self.progress[slot_index].left = 0
                self.progress[slot_index].error = -EIO
                self._settle(slot_index)
        self.stale_count += self.tail - self.head
        self.head = self.tail

    cdef void _settle(self, uint32_t slot_index) noexcept nogil:
        """Set the outcome of a request that waits for nothing any more."""
        cdef RequestSlot *slot = &self.share.state.slots[slot_index]
        cdef int error = self.progress[slot_index].error
        if error == 0:
            error = self.share.give_read(slot, &self.share.requests[slot_index], 0)
        slot.status = <uint32_t>-error
        self.done[self.done_count] = slot_index
        self.done_count += 1
