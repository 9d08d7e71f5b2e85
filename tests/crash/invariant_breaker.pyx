# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Breaks each invariant on purpose, in the build that has them: by what it says, a function that ends the process."""

import os
import tempfile
import uuid

import posix_ipc
from libc.stdint cimport uint32_t, uint64_t

from ringblk.engine.dispatcher.dispatch_loop cimport DispatchLoop
from ringblk.engine.dispatcher.unpop cimport unpop_waiting
from ringblk.engine.dispatcher.handover cimport Handover
from ringblk.engine.dispatcher.queue_table cimport QueueTable
from ringblk.engine.dispatcher.ring cimport DispatcherRing
from ringblk.engine.dispatcher.throttle cimport Throttle
from ringblk.shm.layout.slot cimport SLOT_FREE, SLOT_HANDED, SLOT_PREPARED
from ringblk.shm.queues.virtqueue cimport Virtqueue
from ringblk.shm.state.segment cimport OPERATION_LIMIT, StateSegment
from ringblk.workers.backends.asynchronous cimport AsyncForm
from ringblk.workers.backends.overlay cimport OverlayBackend
from ringblk.workers.layers.map cimport BLOCK_PRESENT
from ringblk.workers.requests.request cimport RequestExecutor

from ringblk.engine.dispatcher.recovery import Recovery
from ringblk.engine.dispatcher.request_recorder import RequestRecorder
from ringblk.workers.backends.null import NullBackend
from tests.rigs.inline_device import InlineDevice

SLOT_COUNT = 64


cdef StateSegment make_state():
    cdef StateSegment state = StateSegment.create(f"ringblk-test-{uuid.uuid4().hex}", SLOT_COUNT, 128)
    posix_ipc.unlink_shared_memory(state.name)   # the process ends without a word
    state.open_slots()
    state.open_worker(0)
    return state


cdef Handover with_worker(StateSegment state):
    """All slots free, and a worker 0 that nobody is."""
    cdef Handover handover = Handover(state)
    handover.free_all_but([])
    handover.worker_up(0, os.eventfd(0))
    return handover


def make_device():
    device = InlineDevice(NullBackend(1 << 20), queue_size=16)
    posix_ipc.unlink_shared_memory(device.state.name)
    return device


cdef class WillingExecutor(RequestExecutor):
    """Begins whatever it is given."""

    cdef bint begin(self, uint32_t slot_index, AsyncForm form) noexcept nogil:
        return True


cdef class WrongThrottle(Throttle):
    """Says of slot 0 that it waits."""

    cdef int take_back(self, uint32_t queue_index, uint64_t position) noexcept nogil:
        return 0


# Take a free slot.

def take_where_none_is_free():
    cdef Handover handover = Handover(make_state())
    handover.peek_free()


def take_a_slot_in_use():
    cdef StateSegment state = make_state()
    cdef Handover handover = with_worker(state)
    state.slots[handover.peek_free()].state = SLOT_HANDED
    handover.take_free()


# Hand over.

def hand_a_free_slot_to_a_worker():
    with_worker(make_state()).give(0)


def hand_to_a_worker_that_has_all():
    cdef StateSegment state = make_state()
    cdef Handover handover = with_worker(state)
    handover.load[0] = SLOT_COUNT
    state.slots[0].state = SLOT_PREPARED
    handover.give(0)


def carry_out_a_free_slot():
    cdef DispatchLoop loop = make_device().loop
    loop._begin(0)


def begin_a_free_slot_in_the_ring():
    cdef DispatcherRing ring = DispatcherRing(make_state(), WillingExecutor(), AsyncForm())
    ring.begin(0, False)


# Collect.

def collect_an_entry_that_is_no_slot():
    cdef StateSegment state = make_state()
    cdef Handover handover = with_worker(state)
    state.done_entries(0)[0] = SLOT_COUNT
    state.workers[0].done_tail = 1
    handover.collect()


def collect_from_a_worker_without_load():
    cdef StateSegment state = make_state()
    cdef Handover handover = with_worker(state)
    state.slots[0].state = SLOT_HANDED
    state.workers[0].done_tail = 1
    handover.collect()


# Release, and unpop.

def release_a_slot_that_nobody_had():
    cdef Handover handover = with_worker(make_state())
    handover.batch_count = 1
    handover.release()


def free_a_slot_twice():
    with_worker(make_state()).add_free(0)


def free_a_long_list_that_is_none():
    cdef StateSegment state = make_state()
    cdef Handover handover = Handover(state)
    state.slots[0].long_list = state.long_list_count + 1
    handover.add_free(0)


def free_a_long_list_twice():
    cdef StateSegment state = make_state()
    cdef Handover handover = with_worker(state)
    handover.take_free()
    state.slots[0].long_list = 1
    handover.add_free(0)


def unpop_a_slot_that_was_handed_over():
    device = make_device()
    cdef DispatchLoop loop = device.loop
    cdef StateSegment state = device.state
    cdef QueueTable table = device.table
    state.slots[0].state = SLOT_HANDED
    unpop_waiting(state, table, loop.handover, WrongThrottle(state, state.rate_limit, False), 0)


def count_an_operation_that_there_is_not():
    recorder = RequestRecorder(make_state(), None)
    recorder.fill_slot(0, operation=OPERATION_LIMIT, wait_ns=0, service_ns=0)
    recorder.record_many(0, 1)


def give_a_head_back_that_is_not_of_the_queue():
    cdef Virtqueue virtqueue = make_device().virtqueue
    virtqueue.give_back(16, 0)


def forget_a_chain_that_was_not_taken():
    cdef Virtqueue virtqueue = make_device().virtqueue
    virtqueue.forget(0)


# Recover.

def let_a_free_slot_live_on():
    Handover(make_state()).free_all_but([0])


def take_a_free_slot_back():
    Recovery(make_device().loop)._take_back([0], False)


def empty_the_ring_of_a_worker_that_is_up():
    with_worker(make_state()).reset_rings(0)


# Layers.

cdef OverlayBackend make_overlay(str folder):
    base = os.path.join(folder, "base")
    with open(base, "wb") as file:
        file.truncate(1 << 20)
    backend = OverlayBackend(base, os.path.join(folder, "overlay"))
    backend.image_lock().lock()
    return backend


def add_a_block_behind_the_end():
    with tempfile.TemporaryDirectory() as folder:
        backend = make_overlay(folder)
    backend.map.add(0, backend.map.block_count + 1, BLOCK_PRESENT)


def lose_a_bit_of_the_live_map():
    with tempfile.TemporaryDirectory() as folder:
        backend = make_overlay(folder)
    backend.write_at(0, bytes(4096))
    backend.journal.flush(backend.fd)
    backend.map.words[0] = 0
    backend.map.note_unsaved()
    backend.map._note_page(0)
    backend.journal.flush(backend.fd)


BREAKERS = {
    "there is a free slot where one is taken": take_where_none_is_free,
    "a slot that is taken is FREE": take_a_slot_in_use,
    "a slot that a worker is handed is PREPARED": hand_a_free_slot_to_a_worker,
    "a worker's ring has room for what it is handed": hand_to_a_worker_that_has_all,
    "a slot that the dispatcher carries out is PREPARED": carry_out_a_free_slot,
    "a slot that the dispatcher begins is PREPARED": begin_a_free_slot_in_the_ring,
    "a done entry names a slot": collect_an_entry_that_is_no_slot,
    "a worker gives back what it was handed": collect_from_a_worker_without_load,
    "a slot that is released was HANDED": release_a_slot_that_nobody_had,
    "no more slots are free than there are": free_a_slot_twice,
    "a slot has a long list that there is": free_a_long_list_that_is_none,
    "no more long lists are free than there are": free_a_long_list_twice,
    "a slot whose chain goes back to its ring is PREPARED": unpop_a_slot_that_was_handed_over,
    "an operation that is counted is one of those that there are": count_an_operation_that_there_is_not,
    "a chain that is given back is of the queue": give_a_head_back_that_is_not_of_the_queue,
    "no more chains are over than were taken": forget_a_chain_that_was_not_taken,
    "a slot that outlives its dispatcher is in use": let_a_free_slot_live_on,
    "a slot that is taken back is in use": take_a_free_slot_back,
    "a worker is down when its ring is emptied": empty_the_ring_of_a_worker_that_is_up,
    "blocks lie in the layer": add_a_block_behind_the_end,
    "a bit that was saved is in the live map": lose_a_bit_of_the_live_map,
}
