"""What a dispatcher reports of the guest and the front end: log lines, and what it costs them."""

import logging
from collections.abc import Callable

from ringblk.engine.dispatcher.messages import CallUnheard, MemoryLost, QueueBroken, RequestGivenUp
from ringblk.engine.supervisor.engine_model import EngineModel
from ringblk.shm.queues.virtqueue import BROKEN_REASONS

Report = QueueBroken | MemoryLost | CallUnheard | RequestGivenUp

_log = logging.getLogger(__name__)


class DispatcherReports:
    """Takes reports; they ask for no answer and may come twice, from a dispatcher and from its successor."""

    def __init__(self, model: EngineModel) -> None:
        self._model = model
        self.end_session: Callable[[str], None] | None = None
        """Ends the session that there is, for the reason given."""

    def take(self, report: Report) -> None:
        """Act on one report."""
        match report:
            case QueueBroken():
                reason = BROKEN_REASONS.get(report.reason, str(report.reason))
                _log.error("queue %d is broken until it is reset: %s", report.queue_index, reason)
            case MemoryLost():
                self._end_session(self._describe_lost(report))
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
        if report.is_inflight_lost and self._model.inflight is not None:
            lost.append("the in-flight region")
        return " and ".join(lost)

    def _end_session(self, lost: str) -> None:
        if lost and self.end_session is not None:
            self.end_session(
                f"{lost} cannot be reached any more: was its file truncated, or its file system full?"
            )
