"""The dirty log of a front end that moves its guest: given, switched on and off, followed by the queues."""

from ringblk.engine.devices.device import DeviceError
from ringblk.engine.devices.vring import Vring
from ringblk.engine.dispatcher.messages import SetLog, SetQueueLog, StopLog
from ringblk.engine.drives.numbered_requests import NumberedRequests
from ringblk.engine.supervisor.drive_model import DriveModel, check_log


class LogChanges:
    """Tells the dispatcher, which marks what it and its workers have written (vhost-user, "Migration")."""

    def __init__(self, model: DriveModel, requests: NumberedRequests) -> None:
        self._model = model
        self._requests = requests

    async def set_log(self, fd: int, mmap_size_bytes: int, mmap_offset_bytes: int) -> None:
        """Have a log, in place of an earlier one; `fd` is ours. Raises `DeviceError`."""
        self._model.admit_log(SetLog(0, mmap_size_bytes, mmap_offset_bytes), fd)
        try:
            if self._model.is_logging:
                await self._tell()
        except DeviceError:
            self._model.forget_log()  # it cannot be mapped
            raise

    async def set_logging(self, enabled: bool) -> None:
        """Begin or stop; where there is no log yet, it begins with the first. Raises `DeviceError`."""
        if enabled and self._model.log is not None:
            check_log(self._model.log[0], [region for region, _ in self._model.current_regions()])
        self._model.is_logging = enabled
        if self._model.log is not None:
            await self._tell()

    async def _tell(self) -> None:
        if self._model.log_in_use is None:
            await self._requests.ask(StopLog)
            return
        log, fd = self._model.log_in_use
        await self._requests.ask(
            lambda request_id: SetLog(request_id, log.mmap_size_bytes, log.mmap_offset_bytes), [fd]
        )

    async def set_queue_log(self, vring: Vring) -> None:
        """A running ring is logged elsewhere from now on, or not any more."""
        self._model.queues[vring.queue_index].vring = vring
        await self._requests.ask(lambda request_id: SetQueueLog(request_id, vring.queue_index, vring.log_gpa))

    async def forget(self) -> None:
        """The front end is gone, and its memory with it."""
        if self._model.is_logging:
            await self.set_logging(False)
        self._model.forget_log()
