"""Changes of guest memory, told to the dispatcher and all workers in an order that keeps requests safe.

A worker hears of a region before the dispatcher does, so no request names what it cannot map; and it hears
that a region is gone after the dispatcher has said that no request uses it any more.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from functools import partial

from ringblk.engine.dispatcher.messages import ChangeRegions
from ringblk.engine.drives.numbered_requests import NumberedRequests
from ringblk.engine.supervisor.drive_model import DriveModel, SharedRegion
from ringblk.engine.supervisor.drive_processes import DriveProcesses
from ringblk.shm.memory.region import MemoryRegion
from ringblk.shm.state.segment import StateSegment
from ringblk.shm.sync.process import crash_point
from ringblk.workers.process.messages import MapRegions, UnmapRegions

ROOM_LOOK_S = 0.01

_log = logging.getLogger(__name__)


class RegionChanges:
    """Puts regions into the table of every process, and takes them out."""

    def __init__(
        self,
        state: StateSegment,
        model: DriveModel,
        processes: DriveProcesses,
        requests: NumberedRequests,
        end_session: Callable[[str], None],
    ) -> None:
        """`end_session` ends the session that there is, for the reason given."""
        self._state = state
        self._model = model
        self._processes = processes
        self._requests = requests
        self._end_session = end_session
        self._unused: dict[int, asyncio.Future[None]] = {}  # region_index -> set when nobody uses it

    async def change(
        self, regions: list[tuple[MemoryRegion, int]], dropped: list[int]
    ) -> "list[asyncio.Future[None]]":
        """Add these regions, whose fds are ours from now on, and drop those with these indexes, in one step.

        Returns a future for each dropped region, done when nobody uses it. Raises `DeviceError`; then nothing
        has changed. What is only added while no queue runs is not waited for: whatever is asked of the
        dispatcher later finds it, and it has no reason to refuse what was admitted here. With a queue the
        next request may lie in it.
        """
        await self._wait_for_room([fd for _, fd in regions])
        # Whatever was lost of regions that there are no more, or that were refused, is nobody's loss now.
        self._state.keep_lost_regions(sum(1 << index for index in self._model.regions))
        added = self._model.admit_regions(regions, dropped)
        for region_index in dropped:
            self._model.regions[region_index].is_current = False
            self._unused[region_index] = asyncio.get_running_loop().create_future()
        futures = [self._unused[region_index] for region_index in dropped]
        messages = [mapped.message for mapped in added]
        if added:
            self._processes.tell_workers(MapRegions(messages), tuple(mapped.fd for mapped in added))
        is_waited_for = bool(dropped or self._model.queues)
        begin = partial(
            self._requests.request,
            lambda request_id: ChangeRegions(request_id, dropped, messages),
            [mapped.fd for mapped in added],
            lambda is_done: None if is_done else self._take_back(added, dropped, is_waited_for),
        )
        if is_waited_for:
            await self._requests.wait(begin())  # kept by nobody here: its error may keep this frame
        else:
            begin()
        return futures

    async def ask_again(self) -> None:
        """Hear once more of regions that were dropped: another control plane may have been told already."""
        dropped = [index for index, mapped in self._model.regions.items() if not mapped.is_current]
        for region_index in dropped:
            self._unused[region_index] = asyncio.get_running_loop().create_future()
        if dropped:
            await self._processes.ask(lambda request_id: ChangeRegions(request_id, dropped, []))

    def note_unused(self, region_indexes: list[int]) -> None:
        """No request uses these dropped regions any more."""
        # Others are said once more by a dispatcher that was told once more.
        unused_indexes = [index for index in region_indexes if index in self._unused]
        if unused_indexes:
            self._processes.tell_workers(UnmapRegions(unused_indexes))
        for region_index in unused_indexes:
            self._model.forget_region(region_index)
            unused = self._unused.pop(region_index)
            crash_point("supervisor: region forgotten")
            if not unused.done():
                unused.set_result(None)

    async def wait_unused(self) -> None:
        """Wait until nobody uses any dropped region."""
        if self._unused:
            await asyncio.wait(self._unused.values())

    def cancel(self) -> None:
        """The engine ends at once: nobody waits any more."""
        for unused in self._unused.values():
            unused.cancel()

    async def _wait_for_room(self, fds: list[int]) -> None:
        """Wait while a worker has too many descriptors unread; it reads between two requests."""
        try:
            if fds and not self._processes.workers_have_room:
                _log.warning("a change of guest memory waits for a worker that has not read of earlier ones")
            while fds and not self._processes.workers_have_room:
                await asyncio.sleep(ROOM_LOOK_S)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise

    def _take_back(self, added: list[SharedRegion], dropped: list[int], is_waited_for: bool) -> None:
        """The dispatcher has refused, and may have a part of it: its successor is told how things are."""
        region_indexes = [mapped.message.region_index for mapped in added]
        if region_indexes:
            self._processes.tell_workers(UnmapRegions(region_indexes))
        for region_index in region_indexes:
            self._model.forget_region(region_index)
        for region_index in dropped:
            self._model.regions[region_index].is_current = True
            self._unused.pop(region_index).cancel()
        if not is_waited_for:  # the front end goes on as if they were there
            self._end_session("the dispatcher cannot have a memory region")
        self._processes.retell_dispatcher()
