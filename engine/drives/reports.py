"""What a dispatcher reports of the guest and the front end: log lines, and what it costs them."""

import logging
from collections.abc import Callable

from ringblk.engine.dispatcher.messages import CallUnheard, MemoryLost, QueueBroken, RequestGivenUp
from ringblk.engine.supervisor.drive_model import DriveModel
from ringblk.shm.memory.guard import INFLIGHT, LOG
from ringblk.shm.queues.virtqueue import BROKEN_REASONS

GuestReport = QueueBroken | MemoryLost | CallUnheard | RequestGivenUp

_log = logging.getLogger(__name__)


class GuestReports:
    """Takes reports, each of which may come twice (see `Report`)."""

    def __init__(self, model: DriveModel, end_session: Callable[[str], None]) -> None:
        """`end_session` ends the session that there is, if there is one, for the reason given."""
        self._model = model
        self._end_session = end_session

    def take(self, report: GuestReport) -> None:
        """Act on one report."""
        match report:
            case QueueBroken():
                reason = BROKEN_REASONS.get(report.reason, str(report.reason))
                _log.error("queue %d is broken until it is reset: %s", report.queue_index, reason)
            case MemoryLost():
                if lost := self._describe_lost(report):
                    self._end_session(
                        f"{lost} cannot be reached any more: was its file truncated, or its file system full?"
                    )
            case CallUnheard():
                _log.warning(
                    "queue %d: the counter of its call eventfd is full, calls are left out",
                    report.queue_index,
                )
            case RequestGivenUp():
                _log.error(
                    "a request has killed three processes and is answered with an error: %s",
                    report.description,
                )

    def _describe_lost(self, report: MemoryLost) -> str:
        """What was lost; empty where all of it is the model's no more."""
        lost = [
            f"the memory region at {region.gpa:#x} of {region.size_bytes} bytes"
            for index in report.region_indexes
            if index in self._model.regions
            for region in [self._model.regions[index].message.region]
        ]
        if report.lost_parts & INFLIGHT and self._model.inflight is not None:
            lost.append("the in-flight region")
        if report.lost_parts & LOG and self._model.log is not None:
            lost.append("the dirty log")
        return " and ".join(lost)
