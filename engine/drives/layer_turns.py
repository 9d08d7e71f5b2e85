"""A copy-on-write drive whose guest moves: taken up when it is held, on the disk before it is given up."""

import asyncio
from functools import partial

from ringblk.engine.devices.device import DeviceError
from ringblk.engine.drives.changes import ChangeRefused, DriveChanges
from ringblk.engine.drives.image_hold import LOOK_AGAIN_S, ImageHold
from ringblk.engine.drives.layers import DriveLayers
from ringblk.engine.supervisor.drive_processes import DriveProcesses
from ringblk.workers.backends.direct_io import DirectMode
from ringblk.workers.backends.image_lock import ImageLocked
from ringblk.workers.backends.layered import LayeredBackend
from ringblk.workers.backends.overlay_turn import take_up


class LayerTurns:
    """`TurnOfLayers` of one drive."""

    def __init__(
        self,
        backend: LayeredBackend,
        direct: DirectMode,
        layers: DriveLayers,
        processes: DriveProcesses,
        hold: ImageHold,
        changes: DriveChanges,
    ) -> None:
        self._backend = backend
        self._direct = direct
        self._layers = layers
        self._processes = processes
        self._hold = hold
        self._changes = changes

    async def take_up(self) -> None:
        """Have all processes use what the engine has left that had the overlay before."""
        prepare = partial(take_up, self._backend, self._direct)
        while True:
            try:
                await self._layers.go_on_with(prepare)
            except ImageLocked:  # by what that engine, which has died, has under way
                await asyncio.sleep(LOOK_AGAIN_S)
            except ChangeRefused as error:
                raise DeviceError(f"the overlay cannot be gone on with: {error}") from error
            else:
                break
        if self._backend.size_bytes > self._changes.capacity_bytes:  # it has grown at that engine
            self._changes.note_size(self._backend.size_bytes)
        self.begin_jobs()

    def begin_jobs(self) -> None:
        """Merge what there is to merge, while the overlay is this engine's."""
        if self._hold.is_held:
            self._layers.jobs.begin()

    async def leave(self) -> None:
        """Have all of it be on the disk, where the other engine looks."""
        if not self._backend.found.is_taken_up:
            return
        await self._layers.jobs.cancel()
        try:
            await self._layers.save()
        except ChangeRefused as error:
            self.begin_jobs()
            raise DeviceError(str(error)) from error

    def note_left(self) -> None:
        """The overlay is given up: the next control plane, and the next process, are to know it so."""
        self._processes.note_storage()
