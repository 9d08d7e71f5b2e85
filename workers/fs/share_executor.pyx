# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What it takes to carry out a file system request, whatever does it: the workers' half (virtio 1.2, 5.11.6)."""

from libc.errno cimport EFAULT, EIO, EMFILE, ENFILE, ENOSYS
from libc.stdint cimport uint32_t

from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.shm.platform.folder_calls cimport guest_error
from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.workers.fs.protocol cimport FUSE_BATCH_FORGET, FUSE_FORGET
from ringblk.workers.fs.request cimport FolderRequest
from ringblk.workers.fs.share cimport Share
from ringblk.workers.fs.wire cimport fuse_out_header
from ringblk.workers.requests.request cimport OUTCOME_DONE, OUTCOME_PENDING, RequestExecutor


cdef class ShareExecutor(RequestExecutor):
    """Executes requests on one share. A slot's status is its errno, or 0. Subclasses implement `carry_out`."""

    def __init__(self, Share share):
        self.share = share

    cdef int carry_out(self, RequestSlot *slot, FolderRequest *request) noexcept nogil:
        """Do what is asked for and answer it: 0, or a negative errno, which is the answer then."""
        return -ENOSYS

    cdef bint is_pending(self, uint32_t slot_index) noexcept nogil:
        """Whether a request that was carried out waits for somebody else."""
        return False

    cdef int execute(self, uint32_t slot_index) noexcept nogil:
        cdef RequestSlot *slot = &self.share.state.slots[slot_index]
        cdef FolderRequest *request = &self.share.requests[slot_index]
        cdef int error
        if request.is_concluded:     # done by a dispatcher that died before it had published this
            return OUTCOME_DONE
        slot.used_length_bytes = 0
        slot.status = EIO
        if self.share.memory.is_lost():
            return OUTCOME_DONE
        self.share.drop_forgotten()
        self.share.was_begun = request.is_begun
        request.is_begun = 1
        crash_point("folder: begun")
        request.found_count = 0
        error = self.carry_out(slot, request)
        if error == -EFAULT:
            self.share.memory.look_at(self.share.state.slot_ranges(slot_index), slot.readable_count + slot.writable_count)
        if self.share.memory.is_lost():
            request.found_count = 0
            return OUTCOME_DONE
        if error == -EMFILE or error == -ENFILE:
            self.share.inodes.clear()   # so that the next has some
        if error == -EIO:
            self.last_error = error
            self.last_error_slot = slot_index
        slot.status = <uint32_t>-error
        if error == 0 and self.is_pending(slot_index):
            slot.status = EIO
            return OUTCOME_PENDING
        return OUTCOME_DONE

    cdef void fail(self, uint32_t slot_index) noexcept nogil:
        self.share.state.slots[slot_index].used_length_bytes = 0
        self.share.state.slots[slot_index].status = EIO
        self.share.requests[slot_index].found_count = 0

    cdef void finish(self, uint32_t slot_index) noexcept nogil:
        """Answer with an errno what has failed, where an answer is expected."""
        cdef RequestSlot *slot = &self.share.state.slots[slot_index]
        cdef FolderRequest *request = &self.share.requests[slot_index]
        cdef fuse_out_header header
        if slot.status == 0 or not request.can_reply or request.header.opcode == FUSE_FORGET \
                or request.header.opcode == FUSE_BATCH_FORGET:
            return
        header.len = sizeof(header)
        header.error = -guest_error(<int>slot.status)
        header.unique = request.header.unique
        self.share.put(slot, 0, &header, sizeof(header))
        slot.used_length_bytes = sizeof(header)
