"""Whose turn it is at the drive's image, as its queues start and stop. No front end waits for that.

Queues that start while another engine has the image rest, as paused ones do, until it has given it up. Queues
that were stopped with requests in flight (`is_suspended`) keep the image until all of those have ended:
nothing of them may land once the other engine has begun to do them again.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

from ringblk.engine.devices.device import DeviceError
from ringblk.engine.dispatcher.messages import AwaitLetGo, FlushStorage, Pause, Resume
from ringblk.engine.drives.image_hold import ImageHold
from ringblk.engine.supervisor.dispatcher_link import DispatcherGone
from ringblk.engine.supervisor.drive_model import DriveModel
from ringblk.engine.supervisor.drive_processes import DriveProcesses
from ringblk.shm.sync.process import crash_point

IMAGE = "image"
"""Who holds a pause until the image is held."""


class TurnOfLayers(Protocol):
    """What is done of a drive with layers when it is taken, and before it is given up."""

    async def take_up(self) -> None:
        """Go on with what the engine before has left. Raises `DeviceError`."""

    async def leave(self) -> None:
        """Have all of it be on the disk. Raises `DeviceError`."""

    def note_left(self) -> None:
        """It is given up."""

    def begin_jobs(self) -> None:
        """Go on in the background, where it is held."""


class ImageTurns:
    """Takes the image for queues that start, and gives it up for those that have stopped."""

    def __init__(
        self,
        hold: ImageHold,
        model: DriveModel,
        processes: DriveProcesses,
        end_session: Callable[[str], None],
    ) -> None:
        """`end_session` ends the session that there is, for the reason given."""
        self._hold = hold
        self._model = model
        self._processes = processes
        self._end_session = end_session
        self.layers: TurnOfLayers | None = None
        """Of a drive that has some."""
        self._taking: asyncio.Task[None] | None = None
        self._is_taking_up = False
        self._leaving: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """A queue is about to start; it rests while another engine has the image. Raises `DeviceError`.

        What was let go when queues were stopped ends first: the queue does it again.
        """
        await self._wait_left()
        if self._model.has_let_go:
            await self._processes.ask(AwaitLetGo)
        self._model.has_let_go = False
        if self._taking is not None or (self._hold.is_held if self.layers else self._hold.try_take()):
            return
        self._model.pause_holders.add(IMAGE)
        self._processes.tell_dispatcher(Pause(0))
        self._taking = asyncio.get_running_loop().create_task(self._take())

    async def end(self, *, is_moving: bool) -> None:
        """The last queue has stopped; `is_moving`: what it wrote to guest memory was logged."""
        await self._wait_no_more()
        if self._model.has_let_go:
            self._leaving = asyncio.get_running_loop().create_task(self._leave(is_moving))
        else:
            await self._hold.queues_stopped(self._flush, is_moving=is_moving)
            self._note_left()

    async def front_end_gone(self) -> None:
        """No queue will start before another front end comes. Returns when nothing is under way any more."""
        await self._wait_no_more()
        await self._wait_left()
        self._model.has_let_go = False
        await self._hold.front_end_gone(self._flush)
        self._note_left()

    def can_suspend(self) -> bool:
        """Whether queues may stop with requests in flight: another engine waits until those have ended.

        Not with layers: what is written without a flush is on the disk, and the map of it would not be yet.
        """
        return self.layers is None and self._hold.keeps_others_off and self._model.log_in_use is not None

    def begin_jobs(self) -> None:
        """A drive with layers begins to be served."""
        if self.layers is not None:
            self.layers.begin_jobs()

    def resume(self) -> None:
        """Go on where another control plane has ended, whose queues the model has."""
        loop = asyncio.get_running_loop()
        if self._model.queues and not self._hold.is_held:
            self._model.pause_holders.add(IMAGE)
            self._taking = loop.create_task(self._take())
        elif not self._model.queues and self._model.has_let_go:
            self._leaving = loop.create_task(self._leave(self._model.log_in_use is not None))

    async def _take(self) -> None:
        try:
            await self._hold.take()
            if self.layers is not None:
                self._is_taking_up = True
                await self.layers.take_up()
        except DeviceError as error:
            self._taking = None
            self._end_session(str(error))
            return
        except DispatcherGone:  # the engine ends, and the image with its processes
            return
        finally:
            self._is_taking_up = False
        crash_point("image: taken")
        self._taking = None
        self._go_on()

    def _go_on(self) -> None:
        self._model.pause_holders.discard(IMAGE)
        if not self._model.pause_holders:
            self._processes.tell_dispatcher(Resume(0))

    async def _wait_no_more(self) -> None:
        """No queue is there any more that waits for the image."""
        if self._taking is not None:
            if not self._is_taking_up:  # else it is the matter of a moment, and must come to its end
                self._taking.cancel()
            await asyncio.wait({self._taking})
            self._taking = None
        if IMAGE in self._model.pause_holders:  # also where it could not be taken
            self._go_on()

    async def _leave(self, is_moving: bool) -> None:
        with contextlib.suppress(DispatcherGone):  # the engine ends, and the image with its processes
            await self._processes.ask(AwaitLetGo)
            crash_point("image: nothing under way")
            await self._hold.queues_stopped(self._flush, is_moving=is_moving)
            self._note_left()
            crash_point("image: given up")

    def _note_left(self) -> None:
        if self.layers is not None and not self._hold.is_held:
            self.layers.note_left()

    async def _wait_left(self) -> None:
        if self._leaving is not None:
            await asyncio.wait({self._leaving})
            self._leaving = None

    async def _flush(self) -> None:
        """Have all that was written be on the disk."""
        if self.layers is not None:
            await self.layers.leave()
            return
        await self._processes.ask(FlushStorage)
