# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""From a descriptor chain to a file system request: the dispatcher's half (virtio 1.2, 5.11.6).

Everything but data is copied into the slot's `FolderRequest` and checked there; the inodes that it names are looked
up, so who carries it out needs nobody else. What is wrong with a request costs that request: it is answered with an
errno where there is room for an answer.
"""

from libc.errno cimport EINVAL, ENAMETOOLONG, ENOENT, ENOSYS, EROFS, ESTALE
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memchr, memcpy, memset

from ringblk.shm.memory.guest_memory cimport GuestMemory
from ringblk.shm.rates.limit cimport CHARGE_OTHER, CHARGE_READ, CHARGE_WRITE
from ringblk.shm.layout.slot cimport Range, RequestSlot
from ringblk.shm.state.segment cimport StateSegment
from ringblk.shm.platform.folder_calls cimport read_file_clock
from ringblk.workers.fs.inode_table cimport InodeTable
from ringblk.workers.fs.nameless cimport NamelessInodes
from ringblk.workers.fs.protocol cimport (
    FUSE_BATCH_FORGET, FUSE_COPY_FILE_RANGE, FUSE_DESTROY, FUSE_FORGET, FUSE_INIT, FUSE_LINK, FUSE_READ,
    FUSE_READDIR, FUSE_READDIRPLUS, FUSE_REMOVEMAPPING, FUSE_RENAME,
    FUSE_RENAME2, FUSE_SETXATTR, FUSE_SETXATTR_EXT, FUSE_TMPFILE,
    FUSE_WRITE,
)
from ringblk.workers.fs.request cimport (
    ARGUMENT_BYTES, FileHandle, FolderHeader, FolderRequest, FoundInode, NAME_BYTES, TEXT_BYTES, folder_requests,
)
from ringblk.workers.fs.rules cimport (
    RULE_BRIEF, RULE_CHANGES, RULE_IN_PLACE, RULE_LONG, RULE_NODE, RULE_NO_REPLY, TEXT_ATTRIBUTE, TEXT_ATTRIBUTE_DATA,
    TEXT_DATA, TEXT_NAME, TEXT_NAME_TARGET, TEXT_NONE, TEXT_TWO_NAMES, Rule, rule_of,
)
from ringblk.workers.fs.share cimport ShareMemory
from ringblk.workers.fs.wire cimport (
    fuse_batch_forget_in, fuse_copy_file_range_in, fuse_forget_in, fuse_forget_one, fuse_in_header, fuse_init_in,
    fuse_init_out, fuse_link_in, fuse_out_header, fuse_read_in, fuse_removemapping_in, fuse_removemapping_one,
    fuse_rename_in, fuse_setxattr_in, fuse_write_in,
)
from ringblk.workers.requests.chain_bytes cimport take_bytes
from ringblk.workers.requests.request cimport (
    OPERATION_COMPLETE, SLOT_BRIEF, SLOT_CHANGES, SLOT_IN_PLACE, SLOT_LONG, RequestParser,
)

cdef enum:
    REMOVE_LIMIT_BYTES = 1 << 14    # of the list of a REMOVEMAPPING; Linux asks for a page of it
    FORGET_LIMIT_BYTES = 1 << 20    # of the list of a BATCH_FORGET; Linux asks for less at once
    FIRST_QUEUE_SLOTS = 8           # for what must not wait, whatever all other requests wait for


cdef class FolderParser(RequestParser):
    """Parses requests, and counts what their outcomes tell the guest of. `is_read_only`: nothing is to change.

    `nameless` is None where nothing is kept of files that lose their names. Requests of `worker_opcodes` are not the
    dispatcher's, whatever their rule says: a bit each.
    """

    cdef StateSegment state
    cdef GuestMemory memory
    cdef FolderHeader *header
    cdef FolderRequest *requests
    cdef InodeTable table
    cdef NamelessInodes nameless
    cdef bint is_read_only
    cdef uint64_t worker_opcodes

    def __init__(self, StateSegment state, GuestMemory memory, ShareMemory shared, InodeTable table,
                 NamelessInodes nameless, bint is_read_only, uint64_t worker_opcodes=0):
        self.state = state
        self.memory = memory
        self.header = shared.header
        self.requests = folder_requests(self.header)
        self.table = table
        self.nameless = nameless
        self.is_read_only = is_read_only
        self.worker_opcodes = worker_opcodes
        self.concludes = True
        self.first_queue_slots = FIRST_QUEUE_SLOTS

    cdef void prepare(self, uint32_t slot_index, int chain_flags) noexcept nogil:
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        cdef Range *ranges = self.state.slot_ranges(slot_index)
        cdef FolderRequest *request = &self.requests[slot_index]
        cdef const Rule *rule
        cdef int error
        slot.operation = OPERATION_COMPLETE
        slot.flags = 0
        slot.status = EINVAL
        slot.charge_kind = CHARGE_OTHER
        slot.length_bytes = 0
        slot.offset_bytes = 0
        slot.used_length_bytes = 0
        slot.first_range = 0
        slot.range_count = slot.readable_count
        request.can_reply = 0
        request.is_begun = 0
        request.found_count = 0
        request.is_concluded = 0
        request.concluded_count = 0
        request.reply_bytes = 0
        self.table.note_loaded()
        if chain_flags or not take_bytes(self.memory, slot, ranges, &request.header, sizeof(fuse_in_header)):
            return
        self._measure_reply(slot, ranges, request)
        rule = rule_of(request.header.opcode)
        if rule == NULL:
            slot.status = ENOSYS
            return
        error = self._read(slot, ranges, request, rule)
        if error:
            slot.status = <uint32_t>-error
            return
        slot.operation = rule.operation
        if rule.flags & RULE_NO_REPLY:
            slot.charge_kind = 0     # no limit holds up what the guest forgets
        if rule.flags & RULE_LONG:
            slot.flags |= SLOT_LONG
        if rule.flags & RULE_BRIEF:
            slot.flags |= SLOT_BRIEF
        if rule.flags & RULE_IN_PLACE and not self.worker_opcodes >> request.header.opcode & 1:
            slot.flags |= SLOT_IN_PLACE
        if rule.flags & RULE_CHANGES:
            slot.flags |= SLOT_CHANGES
            read_file_clock(&request.begun_s, &request.begun_ns)

    cdef void _measure_reply(self, RequestSlot *slot, Range *ranges, FolderRequest *request) noexcept nogil:
        """How long a reply may be, behind its header."""
        cdef uint64_t room_bytes = 0
        cdef uint32_t index
        for index in range(slot.readable_count, <uint32_t>slot.readable_count + slot.writable_count):
            room_bytes += ranges[index].length_bytes
        if room_bytes >= sizeof(fuse_out_header):
            request.can_reply = 1
            request.reply_bytes = <uint32_t>min(room_bytes - sizeof(fuse_out_header), <uint64_t>0x7FFFFFFF)

    cdef int _read(self, RequestSlot *slot, Range *ranges, FolderRequest *request, const Rule *rule) noexcept nogil:
        """Copy and check what stands behind the header: 0 or a negative errno."""
        cdef uint32_t argument_bytes = rule.argument_bytes
        cdef int error
        cdef uint64_t left_bytes = self._left(slot, ranges)
        if request.header.len != left_bytes + sizeof(fuse_in_header) or request.header.total_extlen:
            return -EINVAL
        if self.header.minor == 0 and request.header.opcode != FUSE_INIT:
            return -EINVAL   # nothing goes before it
        if self.is_read_only and rule.flags & RULE_CHANGES:
            return -EROFS
        if request.header.opcode == FUSE_SETXATTR and self.header.flags & FUSE_SETXATTR_EXT:
            argument_bytes = sizeof(fuse_setxattr_in)
        memset(request.argument, 0, ARGUMENT_BYTES)
        if not take_bytes(self.memory, slot, ranges, request.argument, argument_bytes):
            return -EINVAL
        error = self._read_text(slot, ranges, request, rule.text)
        if error:
            return error
        if rule.flags & RULE_NODE:
            error = self._resolve(request.header.nodeid, &request.node)
            if error:
                return error
        return self._read_rest(slot, ranges, request)

    cdef int _read_text(self, RequestSlot *slot, Range *ranges, FolderRequest *request, uint32_t kind) noexcept nogil:
        """The names, which end with a NUL each and have none in them."""
        cdef uint64_t left_bytes = self._left(slot, ranges)
        cdef uint32_t first_bytes, second_bytes
        request.text_bytes = 0
        if kind == TEXT_DATA:
            return 0
        if kind == TEXT_NONE:
            return -EINVAL if left_bytes else 0
        if kind == TEXT_ATTRIBUTE_DATA:
            return self._read_attribute_name(slot, ranges, request, left_bytes)
        if left_bytes == 0 or left_bytes > TEXT_BYTES:
            return -EINVAL if left_bytes == 0 else -ENAMETOOLONG
        take_bytes(self.memory, slot, ranges, request.text, <uint32_t>left_bytes)
        request.text_bytes = <uint32_t>left_bytes
        first_bytes = self._text_bytes(request, 0)
        if first_bytes == 0:
            return -EINVAL
        if kind != TEXT_ATTRIBUTE and (kind != TEXT_NAME or request.header.opcode != FUSE_TMPFILE):
            if error_of_name(request.text, first_bytes):
                return error_of_name(request.text, first_bytes)
        if kind == TEXT_TWO_NAMES or kind == TEXT_NAME_TARGET:
            request.other_text = first_bytes
            second_bytes = self._text_bytes(request, first_bytes)
            if second_bytes == 0 or first_bytes + second_bytes != request.text_bytes:
                return -EINVAL
            if kind == TEXT_TWO_NAMES:
                return error_of_name(request.text + first_bytes, second_bytes)
            return -ENOENT if second_bytes == 1 else -ENAMETOOLONG if second_bytes > 4096 else 0
        return 0 if first_bytes == request.text_bytes else -EINVAL

    cdef int _read_attribute_name(self, RequestSlot *slot, Range *ranges, FolderRequest *request,
                                  uint64_t left_bytes) noexcept nogil:
        """The name of an attribute; its value stays where it is."""
        cdef fuse_setxattr_in *argument = <fuse_setxattr_in *>request.argument
        cdef uint32_t name_bytes = 0
        while name_bytes < NAME_BYTES and take_bytes(self.memory, slot, ranges, request.text + name_bytes, 1):
            name_bytes += 1
            if request.text[name_bytes - 1] == 0:
                request.text_bytes = name_bytes
                if name_bytes == 1 or argument.size != left_bytes - name_bytes:
                    return -EINVAL
                slot.length_bytes = argument.size
                return 0
        return -EINVAL

    cdef uint32_t _text_bytes(self, FolderRequest *request, uint32_t first) noexcept nogil:
        """The length of the text that begins there, with its NUL; 0: it has none."""
        cdef const uint8_t *begin = request.text + first
        cdef const uint8_t *end = <const uint8_t *>memchr(begin, 0, request.text_bytes - first)
        return 0 if end == NULL else <uint32_t>(end - begin) + 1

    cdef int _read_rest(self, RequestSlot *slot, Range *ranges, FolderRequest *request) noexcept nogil:
        """What some opcodes have besides."""
        cdef uint32_t opcode = request.header.opcode
        cdef uint64_t left_bytes = self._left(slot, ranges)
        cdef fuse_read_in *read_in = <fuse_read_in *>request.argument
        if opcode == FUSE_READ or opcode == FUSE_READDIR or opcode == FUSE_READDIRPLUS:
            slot.length_bytes = min(read_in.size, request.reply_bytes)
            slot.offset_bytes = read_in.offset
            slot.charge_kind = CHARGE_READ
        elif opcode == FUSE_WRITE:
            slot.length_bytes = (<fuse_write_in *>request.argument).size
            slot.offset_bytes = (<fuse_write_in *>request.argument).offset
            slot.charge_kind = CHARGE_WRITE
            return 0 if slot.length_bytes == left_bytes else -EINVAL
        elif opcode == FUSE_INIT:
            if left_bytes > sizeof(fuse_init_in) - 16:
                return -EINVAL
            take_bytes(self.memory, slot, ranges, request.argument + 16, <uint32_t>left_bytes)
        elif opcode == FUSE_BATCH_FORGET:
            if left_bytes != <uint64_t>(<fuse_batch_forget_in *>request.argument).count * sizeof(fuse_forget_one) \
                    or left_bytes > FORGET_LIMIT_BYTES:
                return -EINVAL
        elif opcode == FUSE_REMOVEMAPPING:
            if left_bytes != <uint64_t>(<fuse_removemapping_in *>request.argument).count * sizeof(fuse_removemapping_one) \
                    or left_bytes > REMOVE_LIMIT_BYTES:
                return -EINVAL
        elif opcode == FUSE_RENAME or opcode == FUSE_RENAME2:
            return self._resolve_other(request, (<fuse_rename_in *>request.argument).newdir)
        elif opcode == FUSE_LINK:
            return self._resolve_other(request, (<fuse_link_in *>request.argument).oldnodeid)
        elif opcode == FUSE_COPY_FILE_RANGE:
            slot.length_bytes = 0
            return self._resolve_other(request, (<fuse_copy_file_range_in *>request.argument).nodeid_out)
        return 0

    cdef int _resolve_other(self, FolderRequest *request, uint64_t node_id) noexcept nogil:
        request.other_id = node_id
        return self._resolve(node_id, &request.other)

    cdef int _resolve(self, uint64_t node_id, FileHandle *handle) noexcept nogil:
        """An inode's file handle; -ESTALE where the guest does not know it (or nobody remembers: it looks again)."""
        cdef const FileHandle *known = self.table.handle_of(node_id)
        if known == NULL:
            return -ESTALE
        handle[0] = known[0]
        return 0

    cdef uint64_t _left(self, RequestSlot *slot, Range *ranges) noexcept nogil:
        """How much is left to be read."""
        cdef uint64_t left_bytes = 0
        cdef uint32_t index
        for index in range(slot.range_count):
            left_bytes += ranges[slot.first_range + index].length_bytes
        return left_bytes

    cdef void conclude(self, uint32_t slot_index) noexcept nogil:
        cdef RequestSlot *slot = &self.state.slots[slot_index]
        cdef FolderRequest *request = &self.requests[slot_index]
        cdef uint32_t place, opcode = request.header.opcode
        if slot.operation == OPERATION_COMPLETE or slot.status or request.is_concluded:
            return
        if opcode == FUSE_READDIRPLUS:
            for place in range(request.concluded_count, request.found_count):
                self.table.count_found(slot_index, place, <const FoundInode *>request.text + place)
        elif request.found_count > request.concluded_count:
            self.table.count_found(slot_index, 0, &request.one_found)
        elif opcode == FUSE_FORGET and request.concluded_count == 0:
            self.table.count_forgotten(slot_index, 0, request.header.nodeid,
                                       (<fuse_forget_in *>request.argument).nlookup)
        elif opcode == FUSE_BATCH_FORGET:
            self._forget_batch(slot_index, slot, request)
        elif opcode == FUSE_INIT:
            self._begin_session(request)
        elif opcode == FUSE_DESTROY:
            self.table.forget_all()
            self.header.minor = 0
        request.is_concluded = 1
        if self.nameless is not None:
            self.nameless.note_forgotten()

    cdef void _forget_batch(self, uint32_t slot_index, RequestSlot *slot, FolderRequest *request) noexcept nogil:
        """The list stands in guest memory; whatever it says now, it is the guest's own loss."""
        cdef Range *piece = self.state.slot_ranges(slot_index) + slot.first_range
        cdef fuse_forget_one one
        cdef uint64_t offset_bytes = 0
        cdef uint32_t place, part_bytes, done
        for place in range((<fuse_batch_forget_in *>request.argument).count):
            done = 0
            while done < sizeof(one):
                if offset_bytes == piece.length_bytes:
                    piece += 1
                    offset_bytes = 0
                    continue
                part_bytes = <uint32_t>min(sizeof(one) - done, piece.length_bytes - offset_bytes)
                memcpy(<uint8_t *>&one + done, self.memory.pointer(piece) + offset_bytes, part_bytes)
                done += part_bytes
                offset_bytes += part_bytes
            if place >= request.concluded_count:
                self.table.count_forgotten(slot_index, place, one.nodeid, one.nlookup)

    cdef void _begin_session(self, FolderRequest *request) noexcept nogil:
        """The guest's file system begins: it knows nothing but the root."""
        cdef const fuse_init_out *agreed = <const fuse_init_out *>request.text
        if agreed.minor == 0:
            return    # it is to ask again with another version
        self.table.forget_all()
        self.header.flags = agreed.flags
        self.header.flags2 = agreed.flags2
        self.header.max_write_bytes = agreed.max_write
        self.header.minor = agreed.minor


cdef int error_of_name(const uint8_t *name, uint32_t size_bytes) noexcept nogil:
    """What is wrong with a name in a folder, its NUL counted: 0 or a negative errno."""
    if size_bytes > NAME_BYTES:
        return -ENAMETOOLONG
    if size_bytes == 1 or memchr(name, c'/', size_bytes) != NULL:
        return -EINVAL
    if name[0] == c'.' and (size_bytes == 2 or (size_bytes == 3 and name[1] == c'.')):
        return -EINVAL
    return 0
