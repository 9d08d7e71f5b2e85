"""What is to be merged of a drive's layers, in the background: one after the other, while requests go on.

The chain says what there is to do, so the next engine goes on with it: a sealed layer that is no snapshot
stands for the one above it alone, and is merged into that; one that is flattening gets all that lies below.
"""

import asyncio
import logging
from functools import partial
from typing import Literal, Protocol

from ringblk.engine.base.in_thread import in_thread
from ringblk.engine.devices.device import DeviceError
from ringblk.engine.drives.changes import ChangeRefused
from ringblk.engine.drives.layer_reports import JobStatus
from ringblk.workers.backends.direct_io import DirectMode
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.overlay_merge import MergeProgress, MergeStopped, merge
from ringblk.workers.layers.chain_form import Chain, ChainLayer
from ringblk.workers.layers.form import LayerDamaged

STOP_S = 5.0
"""How long the drive's end waits for a copy that hangs in its disk."""

_log = logging.getLogger(__name__)


class LayerOwner(Protocol):
    """What the jobs ask of the drive's layers."""

    @property
    def chain(self) -> Chain:
        """Which layers there are."""

    async def settle_now(self) -> None:
        """Bring what was sealed to the disk."""

    async def finish_merge(self, upper: ChainLayer, lower: ChainLayer | None) -> None:
        """All of `lower`, or of what the overlay lies on, is in `upper`: have a chain that says so."""


class LayerJobs:
    """The merges of one drive."""

    def __init__(self, folder: str, direct: DirectMode, owner: LayerOwner, bps: int) -> None:
        """`bps`: bytes a second that may be copied; 0: as many as can be."""
        self._folder = folder
        self._direct = direct
        self._owner = owner
        self._running: asyncio.Task[None] | None = None
        self._progress = MergeProgress(bps=bps)
        self._subject: tuple[Literal["merge", "flatten"], str] | None = None
        self._error = ""
        self._is_ending = self._is_cancelled = False

    @property
    def status(self) -> JobStatus | None:
        """What is under way or is to be, or has failed; None: there is nothing to do."""
        subject = self._subject
        if subject is None and not self._is_cancelled:
            subject = _subject_of(_task_of(self._owner.chain.settled()))
        if subject is None:
            return None
        kind, snapshot = subject
        return JobStatus(
            kind=kind,
            snapshot=snapshot,
            done_bytes=self._progress.done_bytes,
            total_bytes=self._progress.total_bytes,
            copied_bytes=self._progress.copied_bytes,
            bps=self._progress.bps,
            error=self._error,
        )

    def begin(self) -> None:
        """Do what there is to do."""
        task = _task_of(self._owner.chain.settled())
        if task is None or self._is_ending or (self._running is not None and not self._running.done()):
            return
        self._is_cancelled = False
        self._note(*task)
        self._running = asyncio.get_running_loop().create_task(self._run())

    def limit(self, bps: int) -> None:
        """Copy so many bytes a second from now on."""
        self._progress.bps = bps

    async def cancel(self) -> None:
        """Stop what is under way; it begins again with the next change of layers, or at the next start."""
        self._is_cancelled = True  # between two merges, this is what counts
        if self._running is None:
            return
        self._progress.is_stopped = True
        await asyncio.wait([self._running], timeout=STOP_S)

    async def stop(self) -> None:
        """The drive ends."""
        self._is_ending = True
        await self.cancel()

    async def _run(self) -> None:
        try:
            await self._owner.settle_now()
            while (task := _task_of(self._owner.chain)) is not None and not self._is_cancelled:
                await self._carry_out(*task)
            self._subject = None
        except MergeStopped:
            self._subject = None
        except (BackendError, ChangeRefused, DeviceError, LayerDamaged, OSError) as error:
            self._error = str(error)
            _log.error("layers cannot be merged: %s", error)

    def _note(self, upper: ChainLayer, lower: ChainLayer | None) -> None:
        self._progress = MergeProgress(bps=self._progress.bps)
        self._subject = _subject_of((upper, lower))
        self._error = ""

    async def _carry_out(self, upper: ChainLayer, lower: ChainLayer | None) -> None:
        self._note(upper, lower)
        chain = self._owner.chain
        await in_thread(partial(merge, self._folder, chain, upper, lower, self._direct, self._progress))
        await self._owner.finish_merge(upper, lower)


def _subject_of(
    task: tuple[ChainLayer, ChainLayer | None] | None,
) -> tuple[Literal["merge", "flatten"], str] | None:
    """What a task is called."""
    if task is None:
        return None
    upper, lower = task
    return "flatten" if lower is None else "merge", upper.name


def _task_of(chain: Chain) -> tuple[ChainLayer, ChainLayer | None] | None:
    """The layer that is to get more blocks, and the one whose they are; None for the latter: all below."""
    if (found := chain.mergeable()) is not None:
        lower, upper = found
        return upper, lower
    for layer in chain.layers.values():
        if layer.is_flattening and layer.is_settled:
            return layer, None
    return None
