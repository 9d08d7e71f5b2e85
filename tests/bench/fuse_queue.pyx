# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A FUSE driver for one queue of any vhost-user back end for file systems: single requests, and loads.

Chains are cut as Linux's driver cuts them (fs/fuse/virtio_fs.c): header, argument, data, reply's header, reply's body and
data, a descriptor of its own each, in an indirect table. Who waits sleeps on the call eventfd.
"""

from libc.errno cimport EIO, ENOSPC, ETIMEDOUT
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from ringblk.shm.layout.histogram cimport Histogram
from ringblk.shm.layout.split_ring cimport Descriptor, UsedElement
from ringblk.shm.platform.poll cimport POLLIN, poll, pollfd
from ringblk.shm.platform.wakeup_fd cimport reset_foreign_wakeup, signal_foreign_wakeup
from ringblk.shm.queues.driver_virtqueue cimport DriverVirtqueue, Piece
from ringblk.shm.sync.clock cimport monotonic_ns
from ringblk.workers.fs.protocol cimport (
    FUSE_BATCH_FORGET, FUSE_CREATE, FUSE_FORGET, FUSE_GETATTR, FUSE_LOOKUP, FUSE_READ, FUSE_RELEASE, FUSE_UNLINK,
    FUSE_WRITE,
)
from ringblk.workers.fs.wire cimport (
    fuse_attr_out, fuse_create_in, fuse_entry_out, fuse_forget_in, fuse_getattr_in, fuse_in_header, fuse_open_out,
    fuse_out_header, fuse_read_in, fuse_release_in, fuse_write_out,
)

from ringblk.shm.queues.driver_virtqueue import ring_bytes

cdef enum:
    # Of a request's area: header, argument, reply's header and body, indirect table.
    ARGUMENT = 64
    ARGUMENT_BYTES = 448
    REPLY = 512
    BODY = 576
    BODY_BYTES = 256
    TABLE = 832
    AREA_BYTES = 1024
    NAME_BYTES = 32
    OPEN_FOR_ALL = 0o302          # O_RDWR | O_CREAT | O_EXCL
    WAIT_MS = 100
    PATIENCE_NS = 10_000_000_000


def queue_bytes(queue_size: int, depth: int) -> int:
    """How much guest memory a queue takes, without data."""
    return -(-ring_bytes(queue_size) // 4096) * 4096 + depth * AREA_BYTES


cdef class FuseQueue:
    """A queue at `offset_bytes` of guest memory, and so many requests at once; the fds are set by its owner."""

    cdef readonly DriverVirtqueue virtqueue
    cdef public int kick_fd
    cdef public int call_fd
    cdef uint64_t areas_gpa
    cdef uint64_t data_gpa
    cdef uint32_t depth
    cdef uint64_t unique
    cdef readonly uint64_t error_count    # of the last load
    cdef readonly uint64_t kick_count

    def __init__(self, memory, gpa: int, queue_size: int, *, offset_bytes: int, depth: int, data_gpa: int, event_idx: bool):
        self.virtqueue = DriverVirtqueue(memory, gpa, queue_size, offset_bytes=offset_bytes, event_idx=event_idx)
        self.areas_gpa = gpa + offset_bytes + -(-ring_bytes(queue_size) // 4096) * 4096
        self.data_gpa = data_gpa
        self.depth = depth
        self.unique = 2
        self.virtqueue.disarm_call()

    cdef uint8_t *_at(self, uint64_t gpa) noexcept nogil:
        return self.virtqueue.memory_base + (gpa - self.virtqueue.gpa)

    cdef void *argument(self, uint32_t place) noexcept nogil:
        """Where the argument of a request stands."""
        return self._at(self.areas_gpa + place * AREA_BYTES + ARGUMENT)

    cdef fuse_out_header *reply(self, uint32_t place) noexcept nogil:
        return <fuse_out_header *>self._at(self.areas_gpa + place * AREA_BYTES + REPLY)

    cdef void *body(self, uint32_t place) noexcept nogil:
        return self._at(self.areas_gpa + place * AREA_BYTES + BODY)

    cdef int offer(self, uint32_t place, uint32_t opcode, uint64_t node_id, uint32_t argument_bytes, uint32_t body_bytes,
                   uint32_t read_bytes, uint32_t written_bytes) noexcept nogil:
        """Add a chain whose argument stands there already; its head index or -errno.

        `read_bytes` of data follow the reply, or `written_bytes` the argument.
        """
        cdef uint64_t area_gpa = self.areas_gpa + place * AREA_BYTES
        cdef fuse_in_header *header = <fuse_in_header *>self._at(area_gpa)
        cdef fuse_out_header *reply = self.reply(place)
        cdef Piece pieces[5]
        cdef uint32_t count = 0, data_bytes = max(read_bytes, written_bytes)
        memset(header, 0, sizeof(fuse_in_header))
        header.len = <uint32_t>sizeof(fuse_in_header) + argument_bytes + written_bytes
        header.opcode = opcode
        header.unique = self.unique
        header.nodeid = node_id
        header.pid = 1
        self.unique += 2
        reply.len = 0
        reply.error = -EIO
        self._add_piece(pieces, &count, area_gpa, sizeof(fuse_in_header), False)
        self._add_piece(pieces, &count, area_gpa + ARGUMENT, argument_bytes, False)
        self._add_piece(pieces, &count, self.data_gpa + <uint64_t>place * data_bytes, written_bytes, False)
        if opcode != FUSE_FORGET and opcode != FUSE_BATCH_FORGET:
            self._add_piece(pieces, &count, area_gpa + REPLY, sizeof(fuse_out_header), True)
        self._add_piece(pieces, &count, area_gpa + BODY, body_bytes, True)
        self._add_piece(pieces, &count, self.data_gpa + <uint64_t>place * data_bytes, read_bytes, True)
        return self.virtqueue.add_indirect(pieces, count, <Descriptor *>self._at(area_gpa + TABLE), area_gpa + TABLE)

    cdef void _add_piece(self, Piece *pieces, uint32_t *count, uint64_t gpa, uint32_t size_bytes,
                         bint is_writable) noexcept nogil:
        if size_bytes:
            pieces[count[0]].gpa = gpa
            pieces[count[0]].length_bytes = size_bytes
            pieces[count[0]].writable = is_writable
            count[0] += 1

    cdef void kick(self) noexcept nogil:
        self.virtqueue.publish_chains()
        if self.virtqueue.check_kick():
            signal_foreign_wakeup(self.kick_fd, True)
            self.kick_count += 1

    cdef void wait(self) noexcept nogil:
        """Sleep until something is done, or for a moment."""
        cdef pollfd waited
        if self.virtqueue.has_used() or self.virtqueue.arm_call(1):
            self.virtqueue.disarm_call()
            return
        waited.fd = self.call_fd
        waited.events = POLLIN
        if poll(&waited, 1, WAIT_MS) > 0:
            reset_foreign_wakeup(self.call_fd)
        self.virtqueue.disarm_call()

    cdef int ask(self, uint32_t opcode, uint64_t node_id, uint32_t argument_bytes, uint32_t body_bytes) noexcept nogil:
        """One request in the first area: 0 or a negative errno."""
        cdef uint64_t deadline_ns = monotonic_ns() + PATIENCE_NS
        cdef UsedElement element
        cdef int found
        if self.offer(0, opcode, node_id, argument_bytes, body_bytes, 0, 0) < 0:
            return -ENOSPC
        self.kick()
        while True:
            found = self.virtqueue.next_used_element(&element)
            if found:
                break
            if monotonic_ns() > deadline_ns:
                return -ETIMEDOUT
            self.wait()
        if found < 0:
            return -EIO
        return 0 if opcode == FUSE_FORGET or opcode == FUSE_BATCH_FORGET else self.reply(0).error

    def request(self, opcode: int, node_id: int, argument: bytes = b"", body_bytes: int = 0) -> bytes:
        """One request, waited for; the reply's body. Raises OSError."""
        cdef const uint8_t *source = argument
        if len(argument) > ARGUMENT_BYTES or body_bytes > BODY_BYTES:
            raise ValueError("an area has no room for that")
        memcpy(self.argument(0), source, len(argument))
        error = self.ask(opcode, node_id, len(argument), body_bytes)
        if error:
            raise OSError(-error, f"FUSE opcode {opcode}: errno {-error}")
        return (<uint8_t *>self.body(0))[: self.reply(0).len - sizeof(fuse_out_header)] if body_bytes else b""

    cdef int _offer_one(self, uint32_t place, uint32_t opcode, uint64_t node_id, uint64_t handle, uint32_t block_bytes,
                        uint64_t offset_bytes, uint64_t name_index) noexcept nogil:
        """Another request of a load."""
        cdef fuse_read_in *transfer = <fuse_read_in *>self.argument(place)
        if opcode == FUSE_LOOKUP:
            snprintf(<char *>transfer, NAME_BYTES, "file-%05u", <uint32_t>name_index)
            return self.offer(place, opcode, node_id, 11, sizeof(fuse_entry_out), 0, 0)
        memset(transfer, 0, sizeof(fuse_read_in))
        if opcode == FUSE_GETATTR:
            return self.offer(place, opcode, node_id, sizeof(fuse_getattr_in), sizeof(fuse_attr_out), 0, 0)
        transfer.fh = handle     # of a fuse_write_in, all this stands at the same places
        transfer.offset = offset_bytes
        transfer.size = block_bytes
        if opcode == FUSE_READ:
            return self.offer(place, opcode, node_id, sizeof(fuse_read_in), 0, block_bytes, 0)
        return self.offer(place, opcode, node_id, sizeof(fuse_read_in), sizeof(fuse_write_out), 0, block_bytes)

    def load(self, opcode: int, node_id: int, handle: int, *, block_bytes: int, block_count: int, name_count: int,
             depth: int, begin_ns: int, end_ns: int) -> Histogram:
        """Keep `depth` requests in flight until `end_ns` of the monotonic clock; how long those took from `begin_ns` on."""
        cdef Histogram times = Histogram()
        cdef uint32_t *places = <uint32_t *>calloc(self.virtqueue.queue_size, sizeof(uint32_t))
        cdef uint64_t *begun_ns = <uint64_t *>calloc(self.depth, sizeof(uint64_t))
        cdef uint32_t *idle = <uint32_t *>calloc(self.depth, sizeof(uint32_t))
        cdef uint64_t first_ns = begin_ns, last_ns = end_ns, node = node_id, file = handle
        cdef uint32_t code = opcode, idle_count = depth, place, block = block_bytes
        cdef uint64_t blocks = block_count, names = name_count, now_ns, progress_ns, random = 0x9E3779B97F4A7C15
        cdef UsedElement element
        cdef int head = 0, found = 0
        if places == NULL or begun_ns == NULL or idle == NULL or idle_count > self.depth:
            raise MemoryError
        for place in range(idle_count):
            idle[place] = place
        self.error_count = 0
        with nogil:
            now_ns = progress_ns = monotonic_ns()
            while now_ns < last_ns or self.virtqueue.inflight_count:
                while now_ns < last_ns and idle_count:
                    random = random * <uint64_t>6364136223846793005 + <uint64_t>1442695040888963407
                    place = idle[idle_count - 1]
                    head = self._offer_one(place, code, node, file, block, (random >> 33) % blocks * block, (random >> 33) % names)
                    if head < 0:
                        break
                    idle_count -= 1
                    places[head] = place
                    begun_ns[place] = now_ns
                self.kick()
                self.wait()
                now_ns = monotonic_ns()
                found = self.virtqueue.next_used_element(&element)
                while found > 0:
                    place = places[element.head_index]
                    if first_ns <= now_ns < last_ns:
                        times.add_ns(now_ns - begun_ns[place])
                    if self.reply(place).error or (code == FUSE_READ
                                                   and self.reply(place).len != sizeof(fuse_out_header) + block):
                        self.error_count += 1
                    idle[idle_count] = place
                    idle_count += 1
                    progress_ns = now_ns
                    found = self.virtqueue.next_used_element(&element)
                if found < 0 or now_ns - progress_ns > PATIENCE_NS:
                    break
        free(places)
        free(begun_ns)
        free(idle)
        if found < 0 or self.virtqueue.inflight_count:
            raise RuntimeError("the back end has broken the queue, or nothing comes back")
        return times

    def create_cycles(self, FuseQueue forgets, folder_id: int, *, begin_ns: int, end_ns: int) -> Histogram:
        """CREATE, RELEASE, UNLINK and FORGET (in the queue `forgets`), one after the other, again and again."""
        cdef Histogram times = Histogram()
        cdef uint64_t first_ns = begin_ns, last_ns = end_ns, folder = folder_id, now_ns = monotonic_ns(), started_ns
        cdef uint32_t number = 0
        cdef int error = 0
        with nogil:
            while now_ns < last_ns and error == 0:
                started_ns = now_ns
                error = self._cycle(forgets, folder, number)
                number += 1
                now_ns = monotonic_ns()
                if first_ns <= now_ns < last_ns:
                    times.add_ns(now_ns - started_ns)
        if error:
            raise OSError(-error, f"errno {-error}")
        self.error_count = 0
        return times

    cdef int _cycle(self, FuseQueue forgets, uint64_t folder_id, uint32_t number) noexcept nogil:
        cdef fuse_create_in *creation = <fuse_create_in *>self.argument(0)
        cdef fuse_entry_out *entry = <fuse_entry_out *>self.body(0)
        cdef fuse_release_in *release = <fuse_release_in *>self.argument(0)
        cdef uint64_t node_id, handle
        cdef int error
        memset(creation, 0, sizeof(fuse_create_in))
        creation.flags = OPEN_FOR_ALL
        creation.mode = 0o100644
        creation.umask = 0o22
        snprintf(<char *>creation + sizeof(fuse_create_in), NAME_BYTES, "made-%07u", number % 10000000)
        error = self.ask(FUSE_CREATE, folder_id, sizeof(fuse_create_in) + 13, sizeof(fuse_entry_out) + sizeof(fuse_open_out))
        if error:
            return error
        node_id = entry.nodeid
        handle = (<fuse_open_out *>(entry + 1)).fh
        memset(release, 0, sizeof(fuse_release_in))
        release.fh = handle
        error = self.ask(FUSE_RELEASE, node_id, sizeof(fuse_release_in), 0)
        if error:
            return error
        snprintf(<char *>self.argument(0), NAME_BYTES, "made-%07u", number % 10000000)
        error = self.ask(FUSE_UNLINK, folder_id, 13, 0)
        if error:
            return error
        (<fuse_forget_in *>forgets.argument(0)).nlookup = 1
        return forgets.ask(FUSE_FORGET, node_id, sizeof(fuse_forget_in), 0)
