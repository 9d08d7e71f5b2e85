"""The layers of a copy-on-write drive that runs: snapshots, resets, growth (docs/layers.md).

What takes its time is prepared in a thread while requests go on. Then nothing is popped for a moment, and all
processes of the drive go on with other layers. The chain on the disk says what was done: it is written before
the processes hear of it, and whoever comes after a death goes by it.
"""

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import msgspec

from ringblk.engine.base.in_thread import in_thread
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.devices.device import DeviceError
from ringblk.engine.drives.changed_blocks import changed_extents
from ringblk.engine.drives.changes import ChangeRefused, DriveChanges
from ringblk.engine.drives.image_hold import ImageHold
from ringblk.engine.drives.layer_jobs import LayerJobs
from ringblk.engine.drives.layer_reports import NoSuchSnapshot, Snapshot
from ringblk.engine.supervisor.drive_processes import DriveProcesses, ProcessesFailed
from ringblk.engine.supervisor.kept_parts import AdoptionFailed
from ringblk.shm.sync.process import crash_point
from ringblk.workers.backends.direct_io import DirectMode
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.layered import LayeredBackend
from ringblk.workers.backends.overlay_changes import OverlayChange, OverlayChanger
from ringblk.workers.layers.chain_form import MAX_NAME_BYTES, NO_LAYER, Chain, ChainLayer
from ringblk.workers.layers.extent import Extent
from ringblk.workers.layers.form import LayerDamaged

_FILES_OF_A_CHANGE = 5
_FULL = (errno.ENOSPC, errno.EDQUOT)
LAYERS = "layers"
"""The holder of the pause in which layers change."""

Result = TypeVar("Result")


class DiskFull(ChangeRefused):
    """There is no space for it."""


class DriveLayers:
    """Changes of one drive's layers, one after the other."""

    def __init__(
        self,
        backend: LayeredBackend,
        direct: DirectMode,
        processes: DriveProcesses,
        changes: DriveChanges,
        reserve_files: Callable[[int], None],
        hold: ImageHold,
    ) -> None:
        """`reserve_files`: have so many files open for the storage, or raise `ProgramError`."""
        self._backend = backend
        self._reserve_files = reserve_files
        self._hold = hold
        self._changer = OverlayChanger(backend, direct)
        self._processes = processes
        self._changes = changes
        self._lock = asyncio.Lock()
        self._is_told = asyncio.Event()  # all processes use what the chain says
        self._is_told.set()
        self.jobs = LayerJobs(backend.folder, direct, self, changes.merge_bps)

    @property
    def chain(self) -> Chain:
        """Which layers there are."""
        return self._backend.chain

    def snapshots(self) -> list[Snapshot]:
        """All that there are, the oldest first."""
        below = {layer.layer_id for layer in self.chain.branch()}
        named = [layer for layer in self.chain.layers.values() if layer.name and layer.is_sealed]
        return [
            Snapshot(
                name=layer.name,
                made_ns=layer.sealed_ns,
                size_bytes=layer.size_bytes,
                is_below=layer.layer_id in below,
            )
            for layer in sorted(named, key=lambda layer: layer.sealed_ns)
        ]

    async def wait_told(self) -> None:
        """Return once all processes use what the chain says: snapshots change no more then."""
        await self._is_told.wait()

    def snapshot(self, name: str) -> Snapshot:
        """One of them. Raises `NoSuchSnapshot`."""
        found = [each for each in self.snapshots() if each.name == name]
        if not found:
            raise NoSuchSnapshot(f"the drive has no snapshot {name}")
        return found[0]

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        """Nobody else changes the layers meanwhile, and what was sealed before is on the disk."""
        await self.wait_told()
        async with self._lock:
            await self._in_thread(self._changer.settle)
            yield

    def check_name(self, name: str) -> None:
        """Raise `ChangeRefused` for what no new snapshot can be called."""
        is_path = "/" in name or name in (".", "..")
        if not name or not name.isprintable() or is_path or len(name.encode()) > MAX_NAME_BYTES:
            reason = f"1 to {MAX_NAME_BYTES} bytes of printable characters without a slash"
            raise ChangeRefused("name", f"is not {reason}")
        if self.chain.snapshot(name) is not None:
            raise ChangeRefused("name", f"there is a snapshot {name} already")

    async def prepare_seal(self, name: str) -> OverlayChange:
        """A snapshot that is about to be taken; `changing`."""
        return await self._prepare(partial(self._changer.seal, name))

    async def settle(self) -> None:
        """Bring what was sealed to the disk."""
        await self._in_thread(self._changer.settle)

    async def reset(self, name: str | None) -> None:
        """Have the drive be as it was at a snapshot, or as its base is: what was written since is gone.

        It gives back more space than it takes, so a full disk does not refuse it: the drive pauses for longer
        then. Raises `NoSuchSnapshot`, `ChangeRefused`, `DeviceError`.
        """
        await self.wait_told()
        async with self._lock:
            layer_id = NO_LAYER if name is None else self._named(name).layer_id
            is_full, former = False, self.chain.layers[self.chain.top]
            try:
                change = await self._prepare_reset(layer_id)
            except DiskFull as error:
                is_full = True
                change = await self._prepare_on_full_disk(layer_id, error)
            async with self._goes_on(change):
                await self.pause()
                await self.commit(change)
                await self.use(change)
                if is_full:  # the guest would take what the next reset needs
                    await self._in_thread(partial(self._changer.empty, former))
                    await self.remove_strays()
            await self.remove_strays()

    async def _prepare_reset(self, layer_id: bytes) -> OverlayChange:
        await self.settle()
        return await self._prepare(partial(self._changer.reset, layer_id))

    async def _prepare_on_full_disk(self, layer_id: bytes, error: ChangeRefused) -> OverlayChange:
        """With the space that is kept for it, which the guest must not take first: it is left paused."""
        try:
            await self.pause()
            if not await self._in_thread(self._changer.give_spare):
                raise error
            return await self._prepare_reset(layer_id)
        except BaseException:
            await self.go_on()
            raise

    async def delete(self, name: str) -> None:
        """Have no such snapshot any more; its layer is merged into the one above in the background.

        Raises `NoSuchSnapshot`, `ChangeRefused`, `DeviceError`.
        """
        async with self.changing():
            layer = self._named(name)
            await self._in_thread(partial(self._changer.check_unused, layer))
            above = self.chain.above(layer.layer_id)
            if any(not each.is_sealed for each in above):  # which can be merged into once it is sealed
                await self._switch(await self._prepare(partial(self._changer.seal, "", moved=layer)))
            else:
                unnamed = self.chain.changed(msgspec.structs.replace(layer, name=""))
                await self._in_thread(partial(self._changer.write, unnamed.pruned()))
                await self.remove_strays()
            await self.settle()
        self.jobs.begin()

    async def commit_top(self) -> None:
        """Have the snapshot right below the top be as the drive is now. Raises as `delete`."""
        async with self.changing():
            layer = self.chain.layers.get(self.chain.layers[self.chain.top].below)
            if layer is None or not layer.name:
                raise ChangeRefused(
                    "", "the drive lies on no snapshot of its own that it could be committed to"
                )
            await self._in_thread(partial(self._changer.check_unused, layer))
            await self._switch(await self._prepare(partial(self._changer.seal, layer.name, moved=layer)))
            await self.settle()
        self.jobs.begin()

    async def flatten(self) -> None:
        """Have the drive need its base no more, in the background. Raises `ChangeRefused`, `DeviceError`."""
        async with self.changing():
            *_, lowest = self.chain.branch()
            if lowest.has_no_base:
                raise ChangeRefused("", "the drive lies on no base any more")
            if not lowest.is_sealed:
                await self._switch(await self._prepare(partial(self._changer.seal, "")))
                await self.settle()
                *_, lowest = self.chain.branch()
            marked = self.chain.changed(msgspec.structs.replace(lowest, is_flattening=True))
            await self._in_thread(partial(self._changer.write, marked))
        self.jobs.begin()

    async def grow(self, size_bytes: int) -> None:
        """Make the drive larger; what is added reads as zeroes. Raises `ChangeRefused`, `DeviceError`."""
        self._changes.check_growth(size_bytes)
        async with self.changing():
            if size_bytes == self._backend.size_bytes:
                return
            change = await self._prepare(partial(self._changer.seal, "", size_bytes=size_bytes))
            async with self._goes_on(change):
                await self.pause()
                await self._in_thread(self._changer.end_with_whole_block)
                await self.commit(change)
                await self.use(change)
            self._changes.note_size(size_bytes)
            await self.settle()
        self.jobs.begin()

    async def changed_since(self, name: str) -> list[Extent]:
        """What may read otherwise than at a snapshot that the drive lies on. Raises as `delete`."""
        async with self._lock:
            since, chain = self._named(name), self.chain
            if since not in chain.branch():
                raise ChangeRefused("since", f"the drive was reset since: it does not lie on {name}")
            return await self._in_thread(partial(changed_extents, self._backend.folder, chain, since))

    def limit_jobs(self, bps: int) -> None:
        """Copy so many bytes a second from now on; 0: as many as can be. The next engine does so, too."""
        self._changes.set_merge_bps(bps)
        self.jobs.limit(bps)

    async def cancel_jobs(self) -> None:
        """Stop what is merged now, and flatten nothing."""
        await self.jobs.cancel()
        async with self.changing():
            flattening = [each for each in self.chain.layers.values() if each.is_flattening]
            if flattening:
                freed = [msgspec.structs.replace(each, is_flattening=False) for each in flattening]
                await self._in_thread(partial(self._changer.write, self.chain.changed(*freed)))

    async def settle_now(self) -> None:
        """Bring to the disk what a control plane that has died has sealed. Raises `ChangeRefused`."""
        async with self.changing():
            pass

    async def finish_merge(self, upper: ChainLayer, lower: ChainLayer | None) -> None:
        """All of `lower`, or of what the overlay lies on, is in `upper`: have a chain that says so.

        Raises `BackendError`, `DeviceError`.
        """
        async with self._lock:
            await in_thread(self._changer.settle)
            upper = self.chain.layers[upper.layer_id]
            if lower is None:
                after = self.chain.changed(
                    msgspec.structs.replace(upper, is_flattening=False, has_no_base=True)
                )
            else:
                merged = msgspec.structs.replace(
                    upper,
                    below=lower.below,
                    has_no_base=lower.has_no_base,
                    is_flattening=lower.is_flattening,
                )
                after = self.chain.changed(merged, without=(lower.layer_id,))
            change = await in_thread(partial(self._changer.rebuilt, after))
            await self._switch(change)
            await self.remove_strays()

    async def _switch(self, change: OverlayChange) -> None:
        """Write the chain, then have all processes go on with it. Raises `ChangeRefused`, `DeviceError`."""
        async with self._goes_on(change):
            await self.commit(change)
            await self.pause()
            await self.use(change)

    @asynccontextmanager
    async def _goes_on(self, change: OverlayChange) -> AsyncIterator[None]:
        """Give a change up that fails; have the drive go on in any case."""
        try:
            yield
        except BaseException:
            change.abandon()
            raise
        finally:
            await self.go_on()

    def _named(self, name: str) -> ChainLayer:
        layer = self.chain.snapshot(name)
        if layer is None or not layer.is_sealed:
            raise NoSuchSnapshot(f"the drive has no snapshot {name}")
        return layer

    # A guest that moves (`layer_turns`)

    async def go_on_with(self, prepare: Callable[[], OverlayChange]) -> None:
        """Have all processes use what another engine has left. Raises as `prepare`, and `DeviceError`."""
        async with self._lock:
            change = await self._prepare(prepare)
            self._backend.chain = change.chain
            await self.use(change)

    async def save(self) -> None:
        """Have all of it be on the disk. Raises `ChangeRefused`."""
        async with self.changing():
            await self._in_thread(self._backend.save)

    # After a control plane that has died

    def resume(self) -> None:
        """Know the layers of an overlay that another control plane has opened. Raises `AdoptionFailed`."""
        self._is_told.clear()
        try:
            self._changer.resume()
        except BackendError as error:
            raise AdoptionFailed(str(error)) from error

    async def tell_again(self) -> None:
        """Have all processes use what the chain says: the last change may not have come to all of them.

        Raises `ProcessesFailed`.
        """
        async with self._lock:
            try:
                if not self._hold.is_held:  # it is taken up when it is
                    return
                change = await self._prepare(self._changer.forward)
                try:
                    await self.pause()
                    await self.use(change)
                finally:
                    await self.go_on()
                await self.remove_strays()
            except (ChangeRefused, DeviceError) as error:
                raise ProcessesFailed(f"its layers cannot be gone on with: {error}") from error
            finally:
                self._is_told.set()

    # How a change is made

    async def commit(self, change: OverlayChange) -> None:
        """Write the chain: from here on it has been done, whatever dies."""
        await self._in_thread(partial(self._changer.write, change.chain))
        crash_point("layers: chain written")

    async def use(self, change: OverlayChange) -> None:
        """All processes of the drive go on with it; nothing is in flight. Raises `DeviceError`."""
        names = change.found.fd_names
        known = set() if change.is_told_anew else set(self._backend.found.fd_names)
        self._backend.use(change.found, change.fds)
        crash_point("layers: in use by the supervisor")
        fds = {name: self._backend.fd_of(name) for name in names if name not in known}
        await self._processes.change_storage(change.found, fds)
        crash_point("layers: in use")

    async def undo(self, chain: Chain) -> None:
        """Have the overlay be this chain again: what has been written after it is in no use."""
        again = msgspec.structs.replace(chain, generation=self.chain.generation + 1)
        await self._in_thread(partial(self._changer.write, again))
        await self.remove_strays()

    async def remove_strays(self) -> None:
        """Remove what no chain names any more."""
        await self._in_thread(self._changer.remove_strays)

    async def pause(self) -> None:
        """Nothing is in flight when it returns, until `go_on`. Raises `DeviceError`."""
        await self._changes.hold(LAYERS)

    async def go_on(self) -> None:
        """Requests go on."""
        await self._changes.release(LAYERS)

    async def _prepare(self, prepare: Callable[[], OverlayChange]) -> OverlayChange:
        try:
            self._reserve_files(len(self._backend.fds) + _FILES_OF_A_CHANGE)
        except ProgramError as error:
            raise ChangeRefused("", str(error)) from error
        change = await self._in_thread(prepare)
        crash_point("layers: prepared")
        return change

    async def _in_thread(self, call: Callable[[], Result]) -> Result:
        if not self._hold.is_held:
            raise ChangeRefused("", "another engine may have the overlay: its guest moves")
        try:
            return await in_thread(call)
        except (BackendError, LayerDamaged) as error:
            is_full = isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL
            raise (DiskFull if is_full else ChangeRefused)("", str(error)) from error
        except OSError as error:
            raise ChangeRefused("", f"{self._backend.folder}: {error.strerror or error}") from error
