"""The in-flight region of a drive: the front end's, or one of the drive's own."""

import asyncio
import os

from ringblk.engine.dispatcher.messages import SetInflight
from ringblk.engine.drives.inflight_region import admit_inflight, was_inflight_used
from ringblk.engine.drives.numbered_requests import NumberedRequests
from ringblk.engine.supervisor.drive_model import DriveModel
from ringblk.shm.layout.sizes import MAX_QUEUE_SIZE
from ringblk.shm.queues.inflight_region import make_inflight_region, queue_region_bytes


class InflightChanges:
    """Tells the dispatcher, which keeps its in-flight records there (vhost-user, "Inflight I/O tracking")."""

    def __init__(self, model: DriveModel, requests: NumberedRequests) -> None:
        self._model = model
        self._requests = requests
        self.was_used = False
        """Whether an earlier back end has left requests in it, so that its driver goes on with this one."""
        self.is_shared = False
        """Whether the front end has it, for another back end."""

    async def get(self, num_queues: int, queue_size: int) -> tuple[int, int, int]:
        """Make one; returns an fd for the caller, its size and its offset."""
        fd, size_bytes = make_inflight_region(num_queues, queue_size)
        self.is_shared = True
        await self._use(fd, size_bytes, 0, queue_size)
        return os.dup(fd), size_bytes, 0

    async def set(
        self, fd: int, mmap_size_bytes: int, mmap_offset_bytes: int, num_queues: int, queue_size: int
    ) -> None:
        """Use one from an earlier back end; `fd` is ours. Raises `DeviceError`."""
        admit_inflight(fd, mmap_size_bytes, mmap_offset_bytes, queue_region_bytes(queue_size) * num_queues)
        self.is_shared = True
        self.was_used = was_inflight_used(fd, mmap_offset_bytes, queue_size, num_queues)
        await self._use(fd, mmap_size_bytes, mmap_offset_bytes, queue_size)

    def use_own(self, num_queues: int) -> None:
        """Where the front end keeps none: keep one for the next dispatcher. It is there for the next message.

        Raises `DeviceError` where it cannot be passed on.
        """
        fd, size_bytes = make_inflight_region(num_queues, MAX_QUEUE_SIZE)
        self.is_shared = False
        self._request(fd, size_bytes, 0, MAX_QUEUE_SIZE)

    async def _use(self, fd: int, size_bytes: int, offset_bytes: int, queue_size: int) -> None:
        await self._requests.wait(self._request(fd, size_bytes, offset_bytes, queue_size))

    def _request(self, fd: int, size_bytes: int, offset_bytes: int, queue_size: int) -> "asyncio.Future[int]":
        self._model.forget_inflight()
        self._model.inflight = (SetInflight(0, size_bytes, offset_bytes, queue_size), fd)
        return self._requests.request(
            lambda request_id: SetInflight(request_id, size_bytes, offset_bytes, queue_size),
            [fd],
            lambda is_done: None if is_done else self._model.forget_inflight(),
        )

    def forget(self) -> None:
        """The front end is gone."""
        self._model.forget_inflight()
        self.was_used = self.is_shared = False
