# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What of a drive with layers is open in a process, and how it changes: all of an overlay but its requests.

Descriptors have names (`OpenOverlay.fd_names`), the same in each process of a drive. A change of layers says which
there are from now on (`use`): what a process has is kept, what it lacks comes along, the rest is closed.
"""

import os
from array import array

import msgspec

from libc.stdint cimport uint64_t

from ringblk.workers.backends.file cimport FileBackend
from ringblk.workers.backends.native cimport NativeBackend
from ringblk.workers.layers.index cimport BlockIndex
from ringblk.workers.layers.journal cimport LayerJournal
from ringblk.workers.layers.map cimport BLOCK_BYTES, LayerMap
from ringblk.workers.layers.sealed_map cimport SealedMap
from ringblk.workers.layers.stack cimport LayerStack

from ringblk.workers.backends.answers import Waiting
from ringblk.workers.backends.fetched import FETCH_CALLS, FetchedBase
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.overlay_lock import LayerLock
from ringblk.workers.backends.overlay_open import is_current, open_overlay, prepare_chain
from ringblk.workers.backends.topology import SECTOR_BYTES, BlockTopology
from ringblk.workers.layers.form import LayerDamaged, Superblock
from ringblk.workers.layers.live import attach
from ringblk.workers.sandbox.syscall_filter import FILE_CALLS, LOCK_CALLS


cdef class LayeredBackend(NativeBackend):
    def __init__(self, base_path, folder, *, size_bytes=None, str direct="auto", snapshot=None):
        self.folder = os.fspath(folder)
        self.note_asked(base_path, size_bytes, direct, snapshot)
        self._hold()

    def note_asked(self, base_path, size_bytes, str direct, snapshot):
        """What it is opened with, here or in another process, and again where another engine changes it."""
        self._base_path = base_path
        self._asked_bytes = size_bytes
        self._direct = direct
        self._snapshot = snapshot

    def _hold(self):
        """Open all that there is. Nothing is read or written yet."""
        found, fds, self.chain = open_overlay(
            self._base_path, self.folder, size_bytes=self._asked_bytes, direct=self._direct, snapshot=self._snapshot
        )
        self._settle(found, fds)

    def _settle(self, found, fds):
        """All that follows from what is open; the descriptors are this backend's from now on."""
        cdef FileBackend data = FileBackend.take(found.data, fds[f"data {found.top.number}"])
        cdef FileBackend base = open_base(found, fds)
        cdef FileBackend sealed = None if found.sealed is None else FileBackend.take(found.sealed, -1)
        self._let_go()
        self.data, self.base, self.sealed = data, base, sealed
        if self.serves_guest:
            self._wait_for_ever()
        self.base_bytes = found.base_bytes
        self.found, self._fds = found, fds
        self.folder = found.folder
        self.size_bytes = found.size_bytes
        self.fd = data.fd
        self.block_size_bytes = max(<uint64_t>BLOCK_BYTES, data.block_size_bytes)
        self.topology = BlockTopology(
            logical_block_bytes=SECTOR_BYTES if base is None else base.topology.logical_block_bytes,
            physical_block_bytes=BLOCK_BYTES,
            minimum_io_bytes=BLOCK_BYTES,
            optimal_io_bytes=data.topology.optimal_io_bytes,
            discard_granularity_bytes=BLOCK_BYTES,
        )

    cdef _let_go(self):
        """Nobody closes these files but who closes the descriptors."""
        cdef FileBackend each
        for each in (self.data, self.base, self.sealed):
            if each is not None:
                each.fd = -1

    # What the engine asks.

    def waiting(self):
        """As the slower of layers and base; nothing can be told from a sample of a layer, which is new."""
        answers = [each.waiting() for each in (self.data, self.base) if each is not None]
        slow = [each for each in answers if each.may_block]
        if not slow:
            return Waiting(may_block=False, reason="base and overlay are in memory")
        for each in slow:
            if not each.begins_at_once:
                return each
        return Waiting(begins_at_once=True, reason=slow[0].reason)

    def direct_io(self):
        """As the top layer."""
        return self.data.direct_io()

    def identity(self):
        """That of the overlay, whichever layers it has."""
        return self.found.identity

    def image_lock(self):
        """The overlay's. Who has it takes up the map: whoever had it before has let go of it."""
        return LayerLock(self)

    @property
    def lock_fd(self):
        """What who has the overlay has locked: the file `data` of its folder."""
        return self._fds["lock"]

    def is_current(self):
        """Whether the overlay has the layers that it had when this was opened. Raises `BackendError`."""
        return is_current(self.folder, self.chain)

    def open_again(self):
        """Another engine had the overlay meanwhile: open what it has now; locks are let go. Raises `BackendError`."""
        fds, self._fds = self._fds, {}
        self._let_go()
        _close_all(fds)
        self._hold()

    def prepare(self, chain=None):
        """Bring to an end what the engine before has begun, once the overlay is this one's. Raises `BackendError`.

        `chain`: what it has now, where that is not known yet.
        """
        try:
            prepare_chain(self.folder, (chain or self.chain).base.path)
        except LayerDamaged as error:
            raise BackendError(f"{self.folder}: {error}") from None
        except OSError as error:
            raise BackendError(f"{self.folder}: can't change its layers: {error.strerror or error}") from error

    def take_up(self):
        """Map the layers' maps, once the overlay is this process's. Raises `BackendError` where it is damaged."""
        if self.map is not None:
            return
        top = self.found.top
        superblock = Superblock(layer_id=top.layer_id, size_bytes=top.size_bytes, base=self.chain.base)
        fds = [self._fds[f"{name} {top.number}"] for name in ("map", "live", "data")]
        try:
            self._assemble(*attach(*fds, superblock))
            self.found = msgspec.structs.replace(self.found, is_taken_up=True)
        except LayerDamaged as error:
            raise BackendError(f"{self.folder}: {error}") from None
        except OSError as error:
            raise BackendError(f"{self.folder}: can't read its map: {error.strerror or error}") from error

    def let_go(self):
        """Another engine may have the overlay from now on: maps do not count, until they are taken up again."""
        self.map = self.journal = self.stack = None
        self.found = msgspec.structs.replace(self.found, is_taken_up=False)

    def fd_of(self, name):
        """A descriptor that is open, by its name (`OpenOverlay.fd_names`); it stays this backend's."""
        return self._fds[name]

    def _assemble(self, LayerMap top, LayerJournal journal):
        """Put the maps of all layers together. Raises `OSError`."""
        cdef LayerStack stack = LayerStack(top, journal, self.found.base_bytes)
        cdef LayerMap live
        cdef int[::1] fds
        for near in self.found.below[:1]:
            map_fd, data_fd = self._fds[f"map {near.number}"], self._fds[f"data {near.number}"]
            if near.is_settled:
                stack.lie_on(near.number, near.size_bytes, SealedMap(map_fd, near.size_bytes), None, None, data_fd)
            else:
                live = LayerMap(self._fds[f"live {near.number}"], near.size_bytes)
                stack.lie_on(near.number, near.size_bytes, None, live,
                             LayerJournal(map_fd, live, near.size_bytes, near.layer_id), data_fd)
        if self.found.index is not None:
            index = self.found.index
            stack.know(BlockIndex(self._fds[f"index {index.number}"], index.size_bytes))
        numbers = [layer.number for layer in self.found.below]
        self._layer_fds = array("i", [-1] * (max(numbers, default=0) + 1))
        for number in numbers:
            self._layer_fds[number] = self._fds[f"data {number}"]
        fds = self._layer_fds
        self.layer_fds = &fds[0]
        self.map, self.journal, self.stack = top, journal, stack

    def use(self, found, fds):
        """Go on with these layers: nothing is in flight. `fds` are by name; those that are here already may lack.

        They are this backend's from now on. Those that are not needed are closed.
        """
        needed = found.fd_names
        own = {**{name: fd for name, fd in fds.items() if name not in self._fds}, **self._fds}
        fds_of = {name: own[name] for name in needed}
        unneeded = {fd for given in (fds, self._fds) for fd in given.values()} - set(fds_of.values())
        top = found.top
        live_map = LayerMap(fds_of[f"live {top.number}"], top.size_bytes)
        journal = LayerJournal(fds_of[f"map {top.number}"], live_map, top.size_bytes, top.layer_id)
        fds.clear()
        self._settle(found, fds_of)
        self._assemble(live_map, journal)
        for fd in unneeded:
            os.close(fd)

    @property
    def image(self):
        """The base."""
        return self.base

    def base_counts(self):
        """Of a base that is fetched: how many reads there were, and for how many something was missing."""
        if self.found.fetched is None:
            return 0, 0
        return self.base.read_count, self.base.miss_count

    @property
    def layered(self):
        """It has."""
        return self

    @property
    def fds(self):
        """Those of all layers and the base."""
        return tuple(self._fds[name] for name in self.found.fd_names)

    @property
    def system_calls(self):
        """Files', the lock of a flush, and what it takes to have blocks fetched."""
        return f"{FILE_CALLS} {LOCK_CALLS} {'' if self.found.fetched is None else FETCH_CALLS}"

    def start_worker(self):
        """What is fetched may take as long as it likes."""
        self.serves_guest = True
        self._wait_for_ever()

    def start_dispatcher(self):
        """The same."""
        self.start_worker()

    def _wait_for_ever(self):
        if self.found.fetched is not None:
            self.base.wait_for_ever()

    def is_fenced(self, name):
        """Its calls have ended with it; what it may have left of a change to the map is looked for."""
        if self.stack is not None:
            self.stack.note_unsaved()
        return True

    def hand_over(self):
        """All that was found out, and the descriptors."""
        return self.found, self.fds

    def state(self, uint64_t block):
        """What a block of the top layer is: 0 absent, 1 zeroes, 3 present."""
        return self.map.state(block)

    @property
    def saves_at_close(self):
        """It does, where the map is this process's."""
        return self.stack is not None and self.data.fd >= 0

    def save(self):
        """Save the map: a host that is shut down keeps what was written. Raises `OSError`."""
        cdef LayerStack stack = self.stack
        cdef int fd = self.data.fd, result
        with nogil:
            result = stack.save(fd)
        if result < 0:
            raise OSError(-result, os.strerror(-result))

    def close(self):
        """Save the map, where it is this process's, and close all."""
        try:
            if self.saves_at_close:
                self.save()
        finally:
            self.fd = -1
            self.map = self.journal = self.stack = None
            self._let_go()
            fds, self._fds = self._fds, {}
            _close_all(fds)


def open_base(found, fds):
    """The base as it is open; None where there is none."""
    if found.base is None:
        return None
    if found.fetched is not None:
        return FetchedBase.of(found.base, fds["base"], found.fetched, fds["base map"], fds["base counts"])
    return FileBackend.take(found.base, fds["base"])


def _close_all(fds):
    for fd in set(fds.values()):
        os.close(fd)
